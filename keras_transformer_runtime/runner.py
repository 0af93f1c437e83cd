"""One class for whatever `kt.export` wrote: ids or strings in, tokens, scores and strings out."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_transformer_runtime.litert import NAME, load_program, read_metadata
from keras_transformer_runtime.packages import missing, needed
from keras_transformer_runtime.tokenizers import make_tokenizer


def load(path: str | os.PathLike, *, num_threads: int | None = None) -> "Runner":
    """Load a SavedModel folder or a .tflite file.

    Args:
        path: What `kt.export.saved_model` or `kt.export.litert` wrote.
        num_threads: Of the LiteRT interpreter. Default: its own.

    Raises:
        ValueError: If there is nothing at `path`, or it was not written by this package.
    """
    path = Path(path)
    if path.is_dir():
        return SavedModelRunner(path)
    if path.is_file():
        return LiteRTRunner(path, num_threads)
    raise ValueError(f"There is neither a SavedModel folder nor a .tflite file at '{path}'.")


class Runner:
    """Generates with an exported model.

    Attributes:
        metadata: The description in the export: lengths, special ids, strategy, version.
        source_tokenizer, target_tokenizer: With `tokenize(text)` and `detokenize(ids)`; None if the export has none
            that works outside the graph.
    """

    def __init__(self, metadata: dict, files: dict[str, bytes]):
        self.metadata = metadata
        self.source_tokenizer = make_tokenizer(metadata.get("source_tokenizer"), files)
        self.target_tokenizer = make_tokenizer(metadata.get("target_tokenizer"), files)

    @property
    def input_names(self) -> list[str]:
        """The inputs that take ids or features, in order."""
        return self.metadata["sources"] or [self.metadata["target"]]

    def __call__(self, inputs, *, seed: int = 0) -> dict:
        """Generate.

        Args:
            inputs: A list of strings, if there is a tokenizer; an array of ids (B, T), padded on the right with 0;
                for several inputs a list of arrays or a dict by name.
            seed: Of the random numbers, if the strategy draws any. They depend on the place of a row in its batch,
                and a .tflite file has batches of its own size.

        Returns:
            `tokens` (B, N, L), `lengths` (B, N), `scores` (B, N), and, with a target tokenizer, `texts`, a list of B
            lists of N strings.

        Raises:
            ValueError: If an input is missing, too long, or not of the kind that the export takes.
        """
        arrays = self._read(inputs)
        rows = len(next(iter(arrays.values())))
        parts = [self._run(batch, seed) for batch in self._batches(arrays, rows)]
        outputs = {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
        if self.target_tokenizer is not None:
            outputs["texts"] = [
                [self.target_tokenizer.detokenize(ids) for ids in sequences] for sequences in outputs["tokens"]
            ]
        return outputs

    def stream(self, inputs, *, seed: int = 0) -> Iterator[np.ndarray]:
        """Generate, and hand out tokens as they come.

        Args:
            inputs, seed: As of a call. At most as many rows as the file takes at once.

        Yields:
            (B,) int32, the next token of each row; 0 for a row that has ended.

        Raises:
            ValueError: If the export is not made to stream, by `kt.export.litert(..., layout="step")` or
                `kt.export.saved_model(..., streaming=True)`, or its strategy finds the first token only when it has
                found the last, as beam search does.
        """
        raise NotImplementedError

    def _read(self, inputs) -> dict[str, np.ndarray]:
        names = self.input_names
        if isinstance(inputs, str):
            raise ValueError("A runner takes a list of strings; put a single one in a list.")
        if isinstance(inputs, list | tuple) and inputs and all(isinstance(x, str) for x in inputs):
            if self.source_tokenizer is None:
                raise ValueError("The export has no source tokenizer that works outside the graph: give ids.")
            inputs = [self.source_tokenizer.tokenize(text) for text in inputs]
            longest = max(map(len, inputs))
            inputs = np.array([ids + [0] * (longest - len(ids)) for ids in inputs], np.int32)
        if not isinstance(inputs, dict):
            arrays = list(inputs) if len(names) > 1 else [inputs]
            if len(arrays) != len(names):
                raise ValueError(f"The export takes {len(names)} inputs, {names}, got {len(arrays)}.")
            inputs = dict(zip(names, arrays, strict=True))
        if set(inputs) != set(names):
            raise ValueError(f"The export takes the inputs {names}, got {sorted(inputs)}.")
        arrays = {name: np.asarray(x) for name, x in inputs.items()}
        arrays = {name: x.astype(np.int32) if x.dtype.kind in "iu" else x for name, x in arrays.items()}
        if len({len(x) for x in arrays.values()}) > 1 or not all(x.ndim > 1 and len(x) for x in arrays.values()):
            shapes = {name: x.shape for name, x in arrays.items()}
            raise ValueError(f"The inputs are arrays of the same number of rows, at least one, got shapes {shapes}.")
        return arrays

    def _batches(self, arrays: dict[str, np.ndarray], rows: int) -> Iterator[dict[str, np.ndarray]]:
        yield arrays

    def _run(self, inputs: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _seed(self, seed: int) -> dict[str, np.ndarray]:
        return {"seed": np.int32(seed)} if self.metadata["takes_seed"] else {}


class SavedModelRunner(Runner):
    """By TensorFlow; any number of rows of any length."""

    def __init__(self, path: Path):
        tf = needed("tensorflow", "A SavedModel")
        extra = path / "assets.extra"
        if not (extra / NAME).is_file():
            raise ValueError(f"'{path}' has no assets.extra/{NAME}: it was not written by kt.export.saved_model.")
        metadata = json.loads((extra / NAME).read_bytes())
        super().__init__(metadata, {x.name: x.read_bytes() for x in extra.iterdir() if x.name != NAME})
        self._constant = tf.constant
        try:
            self._loaded = tf.saved_model.load(str(path))
        except RuntimeError as error:
            if "TFText>" not in str(error):
                raise
            register_text_operations()
            self._loaded = tf.saved_model.load(str(path))
        self._function = self._loaded.signatures["generate"]

    def _run(self, inputs, seed):
        outputs = self._function(**{name: self._constant(x) for name, x in {**inputs, **self._seed(seed)}.items()})
        return {name: x.numpy() for name, x in outputs.items()}

    def stream(self, inputs, *, seed: int = 0):
        if "advance" not in self._loaded.signatures:
            raise ValueError(
                "The SavedModel cannot stream: export a Greedy or Sampling generator with "
                "kt.export.saved_model(..., streaming=True)."
            )
        arrays = self._read(inputs)
        tensors = {name: self._constant(x) for name, x in {**arrays, **self._seed(seed)}.items()}
        carries = stream(self._loaded.signatures, tensors)
        return new_tokens({name: carry[name].numpy() for name in ("tokens", "lengths")} for carry in carries)


def register_text_operations() -> None:
    """Make TensorFlow know the operations of tensorflow_text, without its Python code, which would import Keras."""
    import tensorflow as tf

    package = importlib.util.find_spec("tensorflow_text")
    if package is None:
        raise ImportError(missing("tensorflow_text", "The SavedModel, which reads or writes strings,"))
    operations = Path(package.submodule_search_locations[0], "python", "ops")
    for library in ("*wordpiece*.so", "*sentencepiece*.so", "*regex_split*.so"):
        for path in sorted(operations.glob(library)):
            tf.load_op_library(str(path))


class LiteRTRunner(Runner):
    """By the ai-edge-litert package; rows are cut into batches, and padded to the length, of the file."""

    def __init__(self, path: Path, num_threads: int | None):
        super().__init__(*read_metadata(path))
        self._program = load_program(path, self.metadata, num_threads)
        self._shapes = {x["name"]: x["shape"] for x in self._first_signature()}

    def _first_signature(self) -> list[dict]:
        """Inputs of the signature that takes what the caller gives."""
        signatures = self.metadata["signatures"]
        if "generate" in signatures or "encode" in signatures:
            return signatures.get("generate") or signatures["encode"]
        longest = max((name for name in signatures if name.startswith("prefill_")), key=lambda name: int(name[8:]))
        prompts = next(x for x in signatures[longest] if x["name"] == "prompts")
        return [{**prompts, "name": self.metadata["target"]}]

    def _run(self, inputs, seed):
        return self._program.run({**inputs, **self._seed(seed)})

    def _batches(self, arrays, rows):
        size = self.metadata["batch_size"]
        for name, array in arrays.items():
            if any(given > room for given, room in zip(array.shape[1:], self._shapes[name][1:], strict=True)):
                raise ValueError(
                    f"The input '{name}' has rows of shape {array.shape[1:]}; the file takes "
                    f"{tuple(self._shapes[name][1:])} at most. Export with a larger source_length."
                )
        for start in range(0, rows, size):
            batch = {}
            for name, array in arrays.items():
                part = array[start : start + size]
                part = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
                room = self._shapes[name]
                batch[name] = np.pad(part, [(0, most - given) for given, most in zip(part.shape, room, strict=True)])
            yield batch

    def stream(self, inputs, *, seed: int = 0):
        if self.metadata["layout"] != "step" or not self.metadata["streams"]:
            raise ValueError(
                "The file cannot stream: export a Greedy or Sampling generator with "
                "kt.export.litert(..., layout='step')."
            )
        arrays = self._read(inputs)
        rows = len(next(iter(arrays.values())))
        if rows > self.metadata["batch_size"]:
            raise ValueError(f"The file streams {self.metadata['batch_size']} rows at a time, got {rows}.")
        (batch,) = self._batches(arrays, rows)
        carries = self._program.steps({**batch, **self._seed(seed)})
        return new_tokens({name: carry[name][:rows] for name in ("tokens", "lengths")} for carry in carries)


def stream(signatures: dict, tensors: dict) -> Iterator[dict]:
    """The carry before the first step and after each, by the signatures `begin` and `advance` of a SavedModel."""
    seed = {name: x for name, x in tensors.items() if name == "seed"}
    carry = signatures["begin"](**{name: x for name, x in tensors.items() if name != "seed"})
    yield carry
    while not carry["finished"].numpy().all():
        carry = {**carry, **signatures["advance"](**carry, **seed)}
        yield carry


def new_tokens(carries: Iterator[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
    """The tokens (B,) that each carry, `tokens` (B, L) and `lengths` (B,), has more than the one before; 0 where a row
    has none."""
    before = None
    for carry in carries:
        tokens, lengths = carry["tokens"], carry["lengths"]
        for offset in range(0 if before is None else int((lengths - before).max(initial=0))):
            position = before + offset
            new = tokens[np.arange(len(tokens)), np.minimum(position, tokens.shape[1] - 1)]
            yield np.where(position < lengths, new, 0)
        before = lengths
