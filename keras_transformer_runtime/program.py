"""The signatures of an export with static shapes as one function of named arrays, however its loop is laid out."""

import re
import time
from collections.abc import Callable, Iterator

import numpy as np

from keras_transformer_runtime.ids import count_tokens


def check_static(metadata: dict) -> None:
    """Raise ValueError unless a description tells what programs with static shapes need."""
    missing = [name for name in ("layout", "batch_size", "signatures") if metadata.get(name) is None]
    if missing:
        raise ValueError(f"The description of the export does not tell {missing}.")


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
        self._prefills = sorted(int(name[8:]) for name in runners if re.fullmatch(r"prefill_\d{1,9}", name))
        self._whole = "generate" if metadata["kind"] == "generator" else "serving_default"
        needed = {"decode", "finish"} if metadata["layout"] == "step" else {self._whole}
        if not needed <= set(runners) or (metadata["layout"] == "step" and not self._prefills):
            raise ValueError(f"With the layout {metadata['layout']!r} the signatures {sorted(runners)} are not enough.")

    @property
    def longest_prefill(self) -> str:
        """Of a loop in steps, the signature that reads the longest prompts."""
        return f"prefill_{self._prefills[-1]}"

    def run(self, inputs: dict[str, np.ndarray], milliseconds: dict | None = None) -> dict[str, np.ndarray]:
        """The answer to one batch in the shapes of the file."""
        if self.metadata["layout"] != "step":
            return self._call(self._whole, inputs, milliseconds)
        *_, carry = self.steps(inputs, milliseconds)
        return self._call("finish", carry, milliseconds)

    def steps(self, inputs: dict[str, np.ndarray], milliseconds: dict | None = None) -> Iterator[dict]:
        """The carry before the first step, and after each."""
        memory = {}
        seed = {name: value for name, value in inputs.items() if name == "seed"}
        if "encode" in self._runners:
            memory = self._call("encode", inputs, milliseconds)
            prompts = np.full((self.metadata["batch_size"], 1), self.metadata["start_token"], np.int32)
            lengths = np.ones((len(prompts),), np.int32)
        else:
            prompts, lengths = self._prompts(inputs)
        room = min(size for size in self._prefills if size >= lengths.max())
        prompts = np.pad(prompts[:, :room], ((0, 0), (0, max(0, room - prompts.shape[1])))).astype(np.int32)
        given = {**memory, "prompts": prompts, "prompt_lengths": lengths}
        carry = self._call(f"prefill_{room}", given, milliseconds)
        yield carry
        while not carry["finished"].all():
            carry = self._call("decode", {**carry, **memory, **seed}, milliseconds)
            yield carry

    def _prompts(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Prompts and their lengths; an empty one becomes the start token, if there is one."""
        prompts, lengths = inputs[self.metadata["target"]], inputs.get("lengths")
        if lengths is None:
            lengths = count_tokens(prompts, self.metadata["padding_id"])
        if self.metadata["start_token"] is not None:
            first = np.arange(prompts.shape[1]) == 0
            prompts = np.where((lengths == 0)[:, None] & first, self.metadata["start_token"], prompts)
        return prompts, np.maximum(lengths, 1).astype(np.int32)

    def _call(self, name: str, inputs: dict, milliseconds: dict | None) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        outputs = self._runners[name](**{key: inputs[key] for key in self._inputs[name]})
        if milliseconds is not None:
            milliseconds[name] = 1e3 * (time.perf_counter() - start)
        return outputs
