"""One class for whatever `kt.export` wrote: ids or strings in; tokens, scores and texts, or a model's outputs, out."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_transformer_runtime.description import NAME
from keras_transformer_runtime.ids import count_tokens
from keras_transformer_runtime.inputs import Input, pad_rows, read_input, read_prompts
from keras_transformer_runtime.program import Program
from keras_transformer_runtime.seeds import fold_seed
from keras_transformer_runtime.streaming import new_tokens
from keras_transformer_runtime.tokenizers import make_tokenizer


def load(path: str | os.PathLike, *, num_threads: int | None = None) -> "Runner":
    """Load what `kt.export` wrote: a SavedModel folder, a .tflite or .litertlm file, ONNX as a file or a folder.

    What is loaded may be used from any number of threads.

    Args:
        path: What `kt.export.saved_model`, `kt.export.litert`, `kt.export.litertlm` or `kt.export.onnx` wrote.
        num_threads: Of LiteRT. Default: one.

    Raises:
        ValueError: If there is nothing at `path`, it was not written by this package, or it was changed since.
        ImportError: If the package that runs it is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"There is nothing at '{path}': an export is a SavedModel folder, a .tflite or .litertlm file, or ONNX."
        )
    # Each needs a package of its own, and those who use one need not have the others.
    if path.is_dir() and not (path / NAME).exists():
        from keras_transformer_runtime.saved_model import SavedModelRunner

        return SavedModelRunner(path)
    if path.is_dir() or path.suffix == ".onnx":
        from keras_transformer_runtime.onnx import load_onnx

        return load_onnx(path)
    if path.suffix == ".litertlm":
        from keras_transformer_runtime.bundle import BundleRunner

        return BundleRunner(path, num_threads)
    from keras_transformer_runtime.litert import LiteRTRunner

    return LiteRTRunner(path, num_threads)


class Runner:
    """Runs an export.

    Attributes:
        metadata: The description in the export: lengths, special ids, strategy, version.
        source_tokenizer: With `tokenize(text)` and `detokenize(ids)`; None if the export has none that works outside
            the graph.
        target_tokenizer: The same, of the other side.
    """

    def __init__(self, path: Path, metadata: dict, files: dict[str, bytes]):
        self.metadata = metadata
        self.is_generator = metadata["kind"] == "generator"
        self.inputs = [Input.of(x) for x in metadata["inputs"]]
        try:
            self.source_tokenizer = make_tokenizer(metadata.get("source_tokenizer"), files)
            self.target_tokenizer = make_tokenizer(metadata.get("target_tokenizer"), files)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"'{path}' describes a tokenizer that cannot be made: {error}.") from error

    @property
    def takes_texts(self) -> bool:
        """Whether a list of strings may be given."""
        if self._takes_texts:
            return True
        return len(self.inputs) == 1 and (self.inputs[0].dtype == "string" or self._can_tokenize)

    @property
    def gives_texts(self) -> bool:
        """Whether there are `texts` in an answer, to strings at least."""
        return self.is_generator and self.target_tokenizer is not None

    can_stream = False  # whether `stream` hands out tokens

    @property
    def _can_tokenize(self) -> bool:
        return self.source_tokenizer is not None

    @property
    def input_names(self) -> list[str]:
        """The inputs that take ids, features or strings, in order."""
        return [x.name for x in self.inputs]

    def __call__(self, inputs, *, lengths=None, seed: int | None = None, max_length: int | None = None) -> dict:
        """Generate, or, with the export of a plain model, compute its outputs.

        Args:
            inputs: A list of strings, if there is a tokenizer or the model takes strings; ids, (B, T), padded on the
                right, or a list of B lists; for several inputs a list of arrays or a dict by name.
            lengths: (B,) integers: how many tokens each row of the prompts of a decoder-only model has. Default: those
                of the lists, or of the rows without the padding that they end with.
            seed: Of the random numbers, if the strategy draws any. Default: the strategy's own. They depend on the
                place of a row in its batch, and a .tflite file has batches of its own size.
            max_length: As `Generator` takes it; but an export has the one that it was written with, and takes no other.

        Returns:
            Of a generator `tokens` (B, N, L), `lengths` (B, N), `scores` (B, N), and, with a target tokenizer,
            `texts`, a list of B lists of N strings. Of a plain model its outputs by name.

        Raises:
            ValueError: If an input is missing, too long, or not of the kind that the export takes; or an id is
                negative or out of its vocabulary.
        """
        self._check_max_length(max_length)
        seed = self._seed(seed)
        if is_strings(inputs) and self._takes_texts:
            if lengths is not None:
                raise ValueError("lengths are those of ids; texts have their own.")
            return self._run_texts(list(inputs), seed)
        arrays = self._read(inputs, lengths)
        rows = len(next(iter(arrays.values())))
        if not rows:
            return self._nothing()
        parts = [self._run({**batch, **seed}) for batch in self._batches(arrays, rows)]
        whole = parts[0] if len(parts) == 1 else {x: np.concatenate([y[x] for y in parts]) for x in parts[0]}
        outputs: dict = self._crop({name: x[:rows] if x.ndim else x for name, x in whole.items()}, arrays)
        if self.is_generator and self.target_tokenizer is not None:
            outputs["texts"] = [
                [self.text_of(ids[:length].tolist()) for ids, length in zip(*sequences, strict=True)]
                for sequences in zip(outputs["tokens"], outputs["lengths"], strict=True)
            ]
        return outputs

    def _nothing(self) -> dict:
        """The answer to no rows, as `Generator` gives it."""
        shape = (0, self.metadata["num_return"])
        outputs = {
            "tokens": np.zeros((*shape, self.metadata["max_length"]), np.int32),
            "lengths": np.zeros(shape, np.int32),
            "scores": np.zeros(shape, np.float32),
        }
        return outputs if self.target_tokenizer is None else {**outputs, "texts": []}

    def _check_max_length(self, max_length: int | None) -> None:
        own = self.metadata["max_length"] if self.is_generator else None
        if max_length is not None and (isinstance(max_length, bool) or max_length != own):
            raise ValueError(
                f"The export has max_length={own}, fixed when it was written, got max_length={max_length!r}: export a "
                "Generator with that max_length."
            )

    def text_of(self, ids: list[int]) -> str:
        """The text of a sequence without what starts and ends it. An end within it is one of the prompt."""
        ids = ids[:-1] if ids and ids[-1] in self.metadata["end_tokens"] else ids
        ids = ids[1:] if ids and ids[0] == self.metadata["start_token"] else ids
        return self.target_tokenizer.detokenize(ids, length=len(ids))

    def stream(
        self, inputs, *, lengths=None, seed: int | None = None, max_length: int | None = None
    ) -> Iterator[np.ndarray]:
        """Generate, and hand out tokens as they come.

        Args:
            inputs, lengths, seed, max_length: As of a call. At most as many rows as the file takes at once.

        Yields:
            (B,) int32, the next token of each row, or (B, N) of a strategy that returns N; padding for a row that has
            ended, or -1 where padding is a token that can be generated.

        Raises:
            ValueError: If the export is not made to stream, by `kt.export.litertlm`, `kt.export.litert(...,
                layout="step")`, `kt.export.onnx(generator, ...)` or `kt.export.saved_model(..., streaming=True)`, or
                its strategy finds the first token only when it has found the last, as beam search does.
        """
        raise NotImplementedError

    def _read(self, inputs, lengths) -> dict[str, np.ndarray]:
        """The inputs by name, and `lengths` where there are prompts."""
        names = self.input_names
        if isinstance(inputs, str | bytes):
            raise ValueError("A runner takes a list of strings; put a single one in a list.")
        if is_strings(inputs) and self.inputs[0].dtype != "string":
            inputs = self.tokenize(inputs)
        if not isinstance(inputs, dict):
            arrays = list(inputs) if len(names) > 1 else [inputs]
            if len(arrays) != len(names):
                raise ValueError(f"The export takes {len(names)} inputs, {names}, got {len(arrays)}.")
            inputs = dict(zip(names, arrays, strict=True))
        if set(inputs) != set(names):
            raise ValueError(f"The export takes the inputs {names}, got {sorted(map(str, inputs))}.")
        if self.has_prompts:
            (x,) = self.inputs
            ids, lengths = read_prompts(x, inputs[x.name], lengths, self.metadata)
            missing = max(0, 1 - ids.shape[1])  # where all are empty, there is room for what begins them
            ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=self.metadata["padding_id"] or 0)
            arrays = {x.name: ids, "lengths": lengths}
        elif lengths is not None:
            raise ValueError("lengths are those of prompts, and this export takes none.")
        else:
            arrays = {x.name: read_input(x, inputs[x.name]) for x in self.inputs}
        least = 0 if self.is_generator else 1
        if len({len(x) for x in arrays.values()}) > 1 or len(next(iter(arrays.values()))) < least:
            shapes = {name: x.shape for name, x in arrays.items()}
            raise ValueError(
                f"The inputs are arrays of the same number of rows, at least {least}, got shapes {shapes}."
            )
        if self.has_prompts:
            self._check_prompts(arrays[x.name], arrays["lengths"])
        return arrays

    @property
    def has_prompts(self) -> bool:
        """Whether what goes in is what sequences begin with."""
        return self.is_generator and not self.metadata["sources"]

    def _check_prompts(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        if self.metadata["start_token"] is None and not lengths.all():
            raise ValueError("A prompt is empty, and there is no start_token to begin with.")
        longest, padding_id = self.metadata["max_length"], self.metadata["padding_id"]
        if lengths.max(initial=0) > longest:
            raise ValueError(f"A prompt has {lengths.max()} tokens; max_length, {longest}, counts them, too.")
        if padding_id is None or self._takes_lengths:
            return
        is_start = (lengths == 1) & (ids[:, 0] == self.metadata["start_token"])  # what an empty one becomes
        if ((count_tokens(ids, padding_id, lengths) < lengths) & ~is_start).any():
            raise ValueError(
                f"A prompt ends with {padding_id}, which also is padding, and this export does not take the lengths of "
                "prompts. Export a Generator with padding_id=None, or with layout='step'."
            )

    _takes_lengths = False  # whether prompts go in with their lengths though there is padding

    def tokenize(self, texts) -> list[list[int]]:
        """The ids of texts; ValueError if only the graph can make them, or nothing can."""
        if self.source_tokenizer is None:
            raise ValueError("The export has no source tokenizer that works outside the graph: give ids.")
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
        rows = [self.source_tokenizer.tokenize(text) for text in texts]
        without_end = self.has_prompts and self.source_tokenizer.settings["add_end"]
        return [row[:-1] for row in rows] if without_end else rows

    _takes_texts = False  # whether the graph has the tokenizers

    def _run_texts(self, texts: list[str], seed: dict) -> dict:
        raise NotImplementedError

    def row_shape(self, x: Input) -> tuple:
        """The shape of a row of an input, if it is padded the largest one; None where a dimension may have any size."""
        return (None,) if x.shape is None else x.shape[1:]

    def _batches(self, arrays: dict[str, np.ndarray], rows: int) -> Iterator[dict[str, np.ndarray]]:
        yield arrays

    def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _crop(self, outputs: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return outputs

    def _new_tokens(self, carries: Iterator[dict], rows: int) -> Iterator[np.ndarray]:
        """The tokens of each step, of the first `rows` rows."""
        count, padding_id = self.metadata["num_return"], self.metadata["padding_id"]
        nothing = -1 if padding_id is None or padding_id in self.metadata["end_tokens"] else padding_id
        carries = ({name: carry[name][: rows * count] for name in ("tokens", "lengths")} for carry in carries)
        return new_tokens(carries, count, nothing)

    def _seed(self, seed: int | None) -> dict:
        if not self.is_generator or not self.metadata["takes_seed"]:
            return {}
        return {"seed": np.int32(fold_seed(self.metadata["seed"] if seed is None else seed))}


class StaticRunner(Runner):
    """Of signatures with static shapes: rows are cut into batches, and padded to the length, of the file."""

    def __init__(self, path: Path, metadata: dict, files: dict[str, bytes], program: Program):
        super().__init__(path, metadata, files)
        self._program = program
        self._takes_lengths = metadata["layout"] == "step"
        self._shapes = {x["name"]: tuple(x["shape"]) for x in self._first_signature()}
        rows = {self._shapes.get(name, (None,))[:1] for name in self.input_names}
        if rows != {(metadata["batch_size"],)}:
            raise ValueError(f"'{path}' takes {self._shapes}, and describes {self.input_names}.")

    def _first_signature(self) -> list[dict]:
        """Inputs of the signature that takes what the caller gives."""
        signatures = self.metadata["signatures"]
        for name in ("generate", "encode", "serving_default"):
            if name in signatures:
                return signatures[name]
        prompts = [x for x in signatures[self._program.longest_prefill] if x["name"] == "prompts"]
        return [{**x, "name": self.metadata["target"]} for x in prompts]

    def row_shape(self, x):
        return self._shapes[x.name][1:]

    def _run(self, inputs):
        return self._program.run(inputs)

    def _batches(self, arrays, rows):
        size = self.metadata["batch_size"]
        padded = {"lengths": arrays["lengths"]} if "lengths" in arrays else {}
        padded |= {x.name: pad_rows(x, arrays[x.name], self._shapes[x.name][1:]) for x in self.inputs}
        for start in range(0, rows, size):
            parts = {name: x[start : start + size] for name, x in padded.items()}
            yield {name: np.concatenate([x, np.repeat(x[:1], size - len(x), axis=0)]) for name, x in parts.items()}

    def _crop(self, outputs, arrays):
        """The outputs of a plain model without what only the padding made."""
        lengths = {arrays[x.name].shape[axis] for x in self.inputs for axis in x.varying}
        if len(lengths) != 1:
            return outputs
        shapes = {x["name"]: x["shape"] for x in self.metadata.get("outputs") or ()}
        return {
            name: x[tuple(slice(None if size else next(iter(lengths))) for size in shapes.get(name, x.shape))]
            for name, x in outputs.items()
        }

    @property
    def can_stream(self):
        return self.is_generator and self.metadata["layout"] == "step" and self.metadata["streams"]

    def stream(self, inputs, *, lengths=None, seed: int | None = None, max_length: int | None = None):
        self._check_max_length(max_length)
        if not self.can_stream:
            raise ValueError(
                "The file cannot stream: export a Greedy or Sampling generator with "
                "kt.export.litert(..., layout='step')."
            )
        seed = self._seed(seed)
        arrays = self._read(inputs, lengths)
        rows = len(next(iter(arrays.values())))
        if not rows:
            return iter(())
        if rows > self.metadata["batch_size"]:
            raise ValueError(f"The file streams {self.metadata['batch_size']} rows at a time, got {rows}.")
        (batch,) = self._batches(arrays, rows)
        carries = self._program.steps({**batch, **seed})
        return self._new_tokens(carries, rows)


def is_strings(inputs) -> bool:
    """Whether these are strings, one a row."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1 and len(inputs) > 0 and is_strings(inputs.tolist())
    return isinstance(inputs, list | tuple) and bool(inputs) and all(isinstance(x, str | bytes) for x in inputs)
