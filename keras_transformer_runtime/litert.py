"""Runs a .tflite file by the `ai-edge-litert` package."""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from keras_transformer_runtime.description import read_archive
from keras_transformer_runtime.packages import needed
from keras_transformer_runtime.program import Program, check_static
from keras_transformer_runtime.runner import StaticRunner

READ = ("tokens", "lengths", "finished", "scores")  # what a program looks at between two steps


def load_program(path: Path, metadata: dict, num_threads: int | None = None) -> Program:
    """The file as LiteRT runs it, from any number of threads, one call at a time.

    Raises:
        ValueError: If the file does not hold the signatures that its description names.
    """
    check_static(metadata)
    runners, shapes = (_steps if metadata["layout"] == "step" else _whole)(path, metadata, num_threads)
    for name, inputs in metadata["signatures"].items():
        wanted = {x["name"]: list(x["shape"]) for x in inputs}
        if shapes.get(name) != wanted:
            raise ValueError(f"'{path}' does not have the signature {name}({wanted}) that its description names.")
    lock = threading.Lock()  # there is one set of tensors

    def locked(runner):
        def run(**inputs):
            with lock:
                return runner(**inputs)

        return run

    return Program({name: locked(runner) for name, runner in runners.items()}, metadata)


def _whole(path: Path, metadata: dict, num_threads: int | None) -> tuple[dict, dict]:
    """The signatures as functions of arrays, by the interpreter, and the shapes of their inputs."""
    litert = needed("ai_edge_litert.interpreter", "A .tflite file")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=num_threads)
    with _quiet(), contextlib.suppress(RuntimeError):  # not when it first runs: what it says then is within an answer
        interpreter.allocate_tensors()
    found = [name for name in metadata["signatures"] if name in interpreter.get_signature_list()]
    runners = {name: interpreter.get_signature_runner(name) for name in found}
    details = {name: runner.get_input_details() for name, runner in runners.items()}
    shapes = {name: {key: x["shape"].tolist() for key, x in inputs.items()} for name, inputs in details.items()}
    for runner in runners.values():
        runner.interpreter = interpreter  # which it does not keep alive by itself
    return runners, shapes


def _steps(path: Path, metadata: dict, num_threads: int | None) -> tuple[dict, dict]:
    """The same of a loop in steps, whose caches stay where LiteRT computes: they go from step to step as buffers."""
    model = compile_model(path, num_threads)
    found = [name for name in metadata["signatures"] if name in model.get_signature_list()]
    in_place = {"decode": metadata.get("in_place") or ()}
    runners = {name: Signature(model, name, READ, in_place.get(name, ())) for name in found}
    return runners, {name: runner.shapes for name, runner in runners.items()}


def compile_model(model: Path | bytes, num_threads: int | None):
    """A .tflite file, or what is in one, as LiteRT's `CompiledModel`."""
    litert = needed("ai_edge_litert.compiled_model", "A .tflite file")
    with _quiet(), tempfile.TemporaryDirectory() as nowhere:  # where no plugins are
        runtime = os.path.dirname(os.path.abspath(litert.__file__))
        environment = litert.Environment.create(runtime_path=runtime, compiler_plugin_path=nowhere)
        cpu = litert.CpuOptions(num_threads=num_threads or 1)
        options = litert.Options(hardware_accelerators=litert.HardwareAccelerator.CPU, cpu_options=cpu)
        settings = {"environment": environment, "options": options}
        if isinstance(model, bytes):
            compiled = litert.CompiledModel.from_buffer(model, **settings)
        else:
            compiled = litert.CompiledModel.from_file(str(model), **settings)
        nothing = np.zeros(1, np.int32)
        litert.TensorBuffer.create_from_host_memory(nothing).write(nothing)  # which makes another environment
    return compiled


class Signature:
    """A signature of a compiled model, as a function of arrays and buffers to arrays, of what is read, and buffers.

    Args:
        model: The compiled model.
        name: Of the signature.
        read: The outputs that come back as arrays; others stay where they are computed.
        in_place: The outputs that are written to the buffer of the input of the same name.
    """

    def __init__(self, model, name: str, read: Collection[str], in_place: Collection[str] = ()):
        self._model, self._name, self._read, self._in_place = model, name, frozenset(read), frozenset(in_place)
        self._details = model.get_input_tensor_details(name), model.get_output_tensor_details(name)
        self.shapes = {key: list(x["shape"]) for key, x in self._details[0].items()}
        self._inputs = {}
        self._outputs = {}

    def __call__(self, **inputs):
        given = {key: self._input(key, value) for key, value in inputs.items()}
        outputs = {key: self._output(key, given) for key in self._details[1]}
        self._model.run_by_name(self._name, given, outputs)
        return {key: self._array(key, buffer) if key in self._read else buffer for key, buffer in outputs.items()}

    def new(self, key: str):
        """A buffer of zeros for an input."""
        details = self._details[0][key]
        buffer = self._model.create_input_buffer_by_name(self._name, key)
        buffer.write(np.zeros(details["shape"], details["dtype"]))
        return buffer

    def _input(self, key: str, value):
        if not isinstance(value, np.ndarray | np.generic):
            return value
        if key not in self._inputs:
            self._inputs[key] = self._model.create_input_buffer_by_name(self._name, key)
        details = self._details[0][key]
        if list(value.shape) != list(details["shape"]):
            raise ValueError(f"The signature {self._name} takes '{key}' {details['shape']}, got {value.shape}.")
        self._inputs[key].write(np.asarray(value, details["dtype"]))
        return self._inputs[key]

    def _output(self, key: str, given: dict):
        if key in self._in_place and key in given:
            return given[key]
        if key not in self._read:
            return self._model.create_output_buffer_by_name(self._name, key)
        if key not in self._outputs:
            self._outputs[key] = self._model.create_output_buffer_by_name(self._name, key)
        return self._outputs[key]

    def _array(self, key: str, buffer) -> np.ndarray:
        details = self._details[1][key]
        return buffer.read(int(np.prod(details["shape"])), np.dtype(details["dtype"])).reshape(details["shape"])


_QUIET = threading.Lock()  # a process has one standard error


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep LiteRT's log of the accelerators that there are not from the standard error: all that is no error."""
    with _QUIET, tempfile.TemporaryFile() as written:
        try:
            saved = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        _flush()
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(saved, 2)
            os.close(saved)
            written.seek(0)
            for line in written:
                if not line.startswith((b"INFO: ", b"WARNING: [npu_registry")):
                    os.write(2, line)


class LiteRTRunner(StaticRunner):
    """Of a .tflite file."""

    def __init__(self, path: Path, num_threads: int | None):
        metadata, files = read_archive(path)
        if metadata["layout"] == "bundle":
            raise ValueError(f"'{path}' is a bundle of kt.export.litertlm: give it a name that ends with .litertlm.")
        super().__init__(path, metadata, files, load_program(path, metadata, num_threads))
