"""Runs a .tflite file by the `ai-edge-litert` package."""

import threading
from pathlib import Path

from keras_transformer_runtime.description import read_archive
from keras_transformer_runtime.packages import needed
from keras_transformer_runtime.program import Program, check_static
from keras_transformer_runtime.runner import StaticRunner


def load_program(path: Path, metadata: dict, num_threads: int | None = None) -> Program:
    """The file as the LiteRT interpreter runs it, from any number of threads, one call at a time.

    Raises:
        ValueError: If the file does not hold the signatures that its description names.
    """
    check_static(metadata)
    litert = needed("ai_edge_litert.interpreter", "A .tflite file")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=num_threads)
    found = interpreter.get_signature_list()
    runners = {name: interpreter.get_signature_runner(name) for name in metadata["signatures"] if name in found}
    for name, inputs in metadata["signatures"].items():
        wanted = {x["name"]: list(x["shape"]) for x in inputs}
        shapes = (
            {key: x["shape"].tolist() for key, x in runners[name].get_input_details().items()} if name in found else {}
        )
        if name not in found or shapes != wanted:
            raise ValueError(f"'{path}' does not have the signature {name}({wanted}) that its description names.")
    lock = threading.Lock()  # an interpreter has one set of tensors

    def locked(runner):
        def run(**inputs):
            with lock:
                return runner(**inputs)

        return run

    program = Program({name: locked(runner) for name, runner in runners.items()}, metadata)
    program.interpreter = interpreter  # runners do not keep it alive
    return program


class LiteRTRunner(StaticRunner):
    """Of a .tflite file."""

    def __init__(self, path: Path, num_threads: int | None):
        metadata, files = read_archive(path)
        super().__init__(path, metadata, files, load_program(path, metadata, num_threads))
