"""Runs a .litertlm file as LiteRT-LM does, by the `ai-edge-litert` package: with ids, scores and seeds."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_transformer_runtime.description import read_archive
from keras_transformer_runtime.litert import Signature, compile_model
from keras_transformer_runtime.runner import Runner

READ = ("token", "score")


class Bundle:
    """The loop around the signatures of a bundle, for one sequence at a time.

    Args:
        path: The file.
        metadata: Its description.
        num_threads: Of LiteRT.

    Raises:
        ValueError: If the file does not hold the signatures that its description names.
    """

    def __init__(self, path: Path, metadata: dict, num_threads: int | None):
        if metadata["layout"] != "bundle" or not metadata["model"] or not metadata["signatures"]:
            raise ValueError(f"'{path}' does not describe a bundle of kt.export.litertlm.")
        self.metadata = metadata
        place = metadata["model"]
        with open(path, "rb") as file:
            file.seek(place["offset"])
            model = compile_model(file.read(place["size"]), num_threads)
        found = model.get_signature_list()
        wanted = {name: {x["name"]: x["shape"] for x in inputs} for name, inputs in metadata["signatures"].items()}
        caches = {name for name in wanted.get("decode", ()) if name.startswith("kv_cache_")}
        self._signatures = {name: Signature(model, name, READ, caches) for name in wanted if name in found}
        if {name: signature.shapes for name, signature in self._signatures.items()} != wanted:
            raise ValueError(f"'{path}' does not have the signatures {wanted} that its description names.")
        self._caches = sorted(caches)
        self._masks = {name: self._signatures[name].new("mask") for name in wanted if "mask" in wanted[name]}
        self._sizes = sorted(int(name[8:]) for name in wanted if name.startswith("prefill_"))
        self._lock = threading.Lock()

    def steps(self, prompt: np.ndarray, seed: dict) -> Iterator[dict]:
        """`tokens` (1, L), `lengths` (1,), `scores` (1,) before the first step, and after each.

        Args:
            prompt: (P,), int32, at least one id.
            seed: `seed`, of a strategy that draws.
        """
        longest, ends = self.metadata["max_length"], self.metadata["end_tokens"]
        length = len(prompt)
        tokens = np.full((1, longest), self.metadata["padding_id"] or 0, np.int32)
        tokens[0, :length] = prompt
        scores = np.zeros(1, np.float32)
        with self._lock:
            caches = {name: self._signatures["decode"].new(name) for name in self._caches}
        yield {"tokens": tokens, "lengths": np.array([length], np.int32), "scores": scores}
        caches = self._read(prompt[:-1], caches)
        while length < longest:
            last = {"tokens": tokens[:, length - 1 : length], "input_pos": np.array([length - 1], np.int32)}
            with self._lock:
                caches = self._call("decode", {**last, **caches})
                logits, at = caches.pop("logits"), np.array([length], np.int32)
                chosen = self._signatures["select"](logits=logits, positions=at, **seed)
            tokens, scores = tokens.copy(), scores + chosen["score"]
            tokens[0, length] = chosen["token"][0]
            length += 1
            yield {"tokens": tokens, "lengths": np.array([length], np.int32), "scores": scores}
            if tokens[0, length - 1] in ends:
                return

    def _read(self, prompt: np.ndarray, caches: dict) -> dict:
        """The caches behind a prompt, which is read in pieces."""
        start, longest = 0, self.metadata["max_length"]
        while start < len(prompt):
            left, room = len(prompt) - start, longest - start
            size = next((n for n in self._sizes if left <= n <= room), None)
            size = size or max(n for n in self._sizes if n <= left)
            piece = prompt[start : start + size]
            # What fills a piece up stands at position 0.
            tokens, positions = np.zeros((1, size), np.int32), np.zeros(size, np.int32)
            tokens[0, : len(piece)] = piece
            positions[: len(piece)] = np.arange(start, start + len(piece))
            with self._lock:
                caches = self._call(f"prefill_{size}", {"tokens": tokens, "input_pos": positions, **caches})
            start += len(piece)
        return caches

    def _call(self, name: str, inputs: dict) -> dict:
        return self._signatures[name](**inputs, mask=self._masks[name])


class BundleRunner(Runner):
    """Of a .litertlm file: one row after another, each as if it were alone."""

    _takes_lengths = True
    can_stream = True

    def __init__(self, path: Path, num_threads: int | None):
        metadata, files = read_archive(path)
        super().__init__(path, metadata, files)
        self._bundle = Bundle(path, metadata, num_threads)

    def stream(self, inputs, *, lengths=None, seed: int | None = None, max_length: int | None = None):
        self._check_max_length(max_length)
        seed = self._seed(seed)
        arrays = self._read(inputs, lengths)
        rows = list(self._batches(arrays, len(arrays["lengths"])))
        if len(rows) > 1:
            raise ValueError(f"A bundle streams one row at a time, got {len(rows)}.")
        return self._new_tokens(self._steps({**rows[0], **seed}), 1) if rows else iter(())

    def _batches(self, arrays, rows):
        for row in range(rows):
            yield {name: x[row : row + 1] for name, x in arrays.items()}

    def _run(self, inputs):
        *_, carry = self._steps(inputs)
        return {name: x[:, None] for name, x in carry.items()}

    def _steps(self, inputs: dict) -> Iterator[dict]:
        (prompt,), (length,) = inputs[self.inputs[0].name], inputs["lengths"]
        prompt = prompt[:length] if length else np.array([self.metadata["start_token"]])
        return self._bundle.steps(prompt.astype(np.int32), {name: x for name, x in inputs.items() if name == "seed"})
