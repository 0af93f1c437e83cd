"""A .tflite file as a function of named arrays, whichever way its loop is laid out."""

import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from keras_transformer_runtime.packages import needed

NAME = "keras_transformer.json"


def read_metadata(path: Path) -> tuple[dict, dict[str, bytes]]:
    """The description in a .tflite file, and the files beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        return json.loads(files.pop(NAME)), files
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"'{path}' has no description by keras_transformer: it was not written by kt.export.litert, or is cut off."
        ) from error


def load_program(path: Path, metadata: dict, num_threads: int | None = None) -> "Program":
    """The file as the LiteRT interpreter runs it."""
    litert = needed("ai_edge_litert.interpreter", "A .tflite file")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=num_threads)
    program = Program({name: interpreter.get_signature_runner(name) for name in metadata["signatures"]}, metadata)
    program.interpreter = interpreter  # runners do not keep it alive
    return program


class Program:
    """Runs the signatures of an export as its description says.

    Args:
        runners: Each signature, as a function of named arrays to a dict of arrays.
        metadata: The description.
    """

    def __init__(self, runners: dict[str, Callable], metadata: dict):
        self.metadata = metadata
        self._runners = runners
        self._inputs = {name: [x["name"] for x in inputs] for name, inputs in metadata["signatures"].items()}

    def run(self, inputs: dict[str, np.ndarray], milliseconds: dict | None = None) -> dict[str, np.ndarray]:
        """The answer to one batch in the shapes of the file."""
        if self.metadata["layout"] != "step":
            name = "generate" if "generate" in self._runners else "serving_default"
            return self._call(name, inputs, milliseconds)
        *_, carry = self.steps(inputs, milliseconds)
        return self._call("finish", carry, milliseconds)

    def steps(self, inputs: dict[str, np.ndarray], milliseconds: dict | None = None) -> Iterator[dict]:
        """The carry before the first step, and after each."""
        memory = {}
        seed = {name: value for name, value in inputs.items() if name == "seed"}
        if "encode" in self._runners:
            memory = self._call("encode", inputs, milliseconds)
            rows = self.metadata["batch_size"]
            prompts = np.full((rows, 1), self.metadata["start_token"], np.int32)
        else:
            prompts = inputs[self.metadata["target"]]
        lengths = np.maximum((prompts != 0).sum(axis=1), 1).astype(np.int32)
        if self.metadata["start_token"] is not None:
            prompts = np.where((prompts != 0).any(axis=1, keepdims=True), prompts, _first(prompts, self.metadata))
        room = min(
            size for size in (int(name[8:]) for name in self._runners if name.startswith("prefill_"))
            if size >= lengths.max()
        )  # fmt: skip
        prompts = np.pad(prompts[:, :room], ((0, 0), (0, max(0, room - prompts.shape[1])))).astype(np.int32)
        given = {**memory, "prompts": prompts, "prompt_lengths": lengths}
        carry = self._call(f"prefill_{room}", given, milliseconds)
        yield carry
        while not carry["finished"].all():
            carry = self._call("decode", {**carry, **memory, **seed}, milliseconds)
            yield carry

    def _call(self, name: str, inputs: dict, milliseconds: dict | None) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        outputs = self._runners[name](**{key: inputs[key] for key in self._inputs[name]})
        if milliseconds is not None:
            milliseconds[name] = 1e3 * (time.perf_counter() - start)
        return outputs


def _first(prompts: np.ndarray, metadata: dict) -> np.ndarray:
    first = np.zeros_like(prompts)
    first[:, 0] = metadata["start_token"]
    return first
