"""Runs a SavedModel by TensorFlow: any number of rows of any length."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_transformer_runtime.description import EXTRA, read_folder
from keras_transformer_runtime.packages import missing, needed
from keras_transformer_runtime.runner import Runner


class SavedModelRunner(Runner):
    """Of a SavedModel folder."""

    def __init__(self, path: Path):
        try:
            metadata, files = read_folder(path / EXTRA)
        except ValueError as error:
            raise ValueError(f"'{path}' was not written by kt.export.saved_model, or is damaged: {error}") from error
        tf = needed("tensorflow", "A SavedModel")
        self._constant = tf.constant
        try:
            self._loaded = _load(path)
        except ImportError:
            raise
        except Exception as error:  # of protobuf, of TensorFlow, or whatever a damaged file makes them stumble over
            raise ValueError(f"'{path}' is damaged, TensorFlow cannot load it: {error!r}") from error
        self.signatures = self._loaded.signatures
        # A plain model that has strings at serving_default has ids at encode.
        names = ("generate",) if metadata["kind"] == "generator" else ("encode", "serving_default")
        name = next((name for name in names if name in self.signatures), None)
        if name is None:
            raise ValueError(f"'{path}' has none of the signatures {list(names)}; it has {list(self.signatures)}.")
        self._function = self.signatures[name]
        if not metadata["inputs"]:  # format 1 did not name those of plain models
            metadata["inputs"] = [{"name": name} for name in _inputs(self._function)]
        super().__init__(path, metadata, files)
        self._serve = self.signatures.get("serving_default")

    @property
    def _takes_texts(self):
        """Whether the graph makes ids of texts, and nobody else does, or it alone makes texts of ids again."""
        text = None if self._serve is None else _inputs(self._serve).get("text")
        own = next((x.dtype for x in self.inputs if x.name == "text"), None)  # an input of the model may be called so
        if text is None or text.dtype.name != "string" or own == "string":
            return False
        makes_texts = "texts" in self._serve.structured_outputs
        return self.source_tokenizer is None or (makes_texts and self.target_tokenizer is None)

    @property
    def gives_texts(self):
        in_graph = self._serve is not None and "texts" in self._serve.structured_outputs
        return self.is_generator and (self.target_tokenizer is not None or in_graph)

    @property
    def _can_tokenize(self):
        return super()._can_tokenize or "tokenize" in self.signatures

    def _run_texts(self, texts, seed):
        outputs = self._call(self._serve, {"text": np.array(texts, object), **seed})
        if "texts" in outputs:
            outputs["texts"] = [[text.decode(errors="replace") for text in row] for row in outputs["texts"].tolist()]
        return outputs

    def tokenize(self, texts):
        if self.source_tokenizer is None and "tokenize" in self.signatures:
            outputs = self._call(self.signatures["tokenize"], {"text": np.array(texts, object)})
            return [row[:count].tolist() for row, count in zip(outputs["ids"], outputs["lengths"], strict=True)]
        return super().tokenize(texts)

    def _run(self, inputs):
        return self._call(self._function, inputs)

    def _call(self, function, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted = _inputs(function)
        outputs = function(**{name: self._constant(x) for name, x in inputs.items() if name in wanted})
        return {name: x.numpy() for name, x in outputs.items()}

    @property
    def can_stream(self):
        return "advance" in self.signatures

    def stream(self, inputs, *, lengths=None, seed: int | None = None, max_length: int | None = None):
        self._check_max_length(max_length)
        if not self.can_stream:
            raise ValueError(
                "The SavedModel cannot stream: export a Greedy or Sampling generator with "
                "kt.export.saved_model(..., streaming=True)."
            )
        seed = self._seed(seed)
        arrays = {**self._read(inputs, lengths), **seed}
        rows = len(next(iter(arrays.values())))
        if not rows:
            return iter(())
        carries = stream(self.signatures, {name: self._constant(x) for name, x in arrays.items()})
        carries = ({name: carry[name].numpy() for name in ("tokens", "lengths")} for carry in carries)
        return self._new_tokens(carries, rows)


def _load(path: Path):
    import tensorflow as tf

    try:
        return tf.saved_model.load(str(path))
    except RuntimeError as error:
        if "not registered" not in str(error):
            raise
        register_text_operations()
        return tf.saved_model.load(str(path))


def stream(signatures: dict, tensors: dict) -> Iterator[dict]:
    """The carry before the first step and after each, by the signatures `begin` and `advance` of a SavedModel."""
    seed = {name: x for name, x in tensors.items() if name == "seed"}
    wanted = _inputs(signatures["begin"])
    carry = signatures["begin"](**{name: x for name, x in tensors.items() if name in wanted})
    yield carry
    while not carry["finished"].numpy().all():
        carry = {**carry, **signatures["advance"](**carry, **seed)}
        yield carry


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


def _inputs(function) -> dict:
    return function.structured_input_signature[1]
