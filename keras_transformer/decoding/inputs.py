"""What a user hands to a Generator, checked: sources by slot, prompts and their lengths."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.special import SpecialTokens
from keras_transformer.decoding.texts import Texts, is_text
from keras_transformer.layers.checks import describe
from keras_transformer_runtime.ids import Rows, as_integers, check_range, read_rows, read_sequences


class Request(NamedTuple):
    """Arrays ready to generate from."""

    sources: dict[int, np.ndarray]  # by slot
    prompts: np.ndarray  # (B, P), int32, padded on the right
    lengths: np.ndarray  # (B,), int32, at least 1


class Sequences(NamedTuple):
    """Arrays ready to judge."""

    sources: dict[int, np.ndarray]  # by slot
    tokens: np.ndarray  # (B, N, T), int32, padded on the right
    lengths: np.ndarray  # (B, N), int32
    prompt_lengths: np.ndarray  # (B, N), int32


class InputReader:
    """Reads inputs for a graph.

    Args:
        graph: The model.
        special: The tokens with a meaning of their own.
        texts: The tokenizers.
        may_pad: Whether rows of the source in a slot may be padded without any effect.
    """

    def __init__(self, graph: Graph, special: SpecialTokens, texts: Texts, may_pad: Callable[[int], bool]):
        self.graph = graph
        self.special = special
        self.texts = texts
        self.may_pad = may_pad
        self._slots = {name: slot for slot, name in enumerate(graph.input_names) if slot != graph.target}
        self._target = graph.input_names[graph.target]
        self._limits = graph.vocabulary_limits()

    def read(self, inputs, prompts, lengths, max_length: int) -> tuple[Request, bool]:
        """Sources and prompts, however they were given, and whether there were texts among them; ValueError if
        something is missing or does not fit."""
        named, prompts = self._name(inputs, prompts)
        sources = self._read_sources(named)
        batch = len(next(iter(sources.values()))) if sources else None
        request = Request(sources, *self._read_prompts(prompts, lengths, batch, max_length))
        of_strings = any(_dtype(self.graph.model.inputs[slot]) == "string" for slot in sources)
        return request, of_strings or any(is_text(x) for x in (*named.values(), prompts))

    def read_sequences(self, inputs, tokens, prompt_lengths, lengths) -> tuple[Sequences, tuple]:
        """Sources and whole sequences, and the shape of the answer, (B,) or (B, N)."""
        named, tokens = self._name(inputs, tokens)
        if tokens is None:
            raise ValueError(f"score takes the sequences to judge, as '{self._target}'.")
        sources = self._read_sources(named)
        tokens, shape = _without_beams(tokens)
        if sources and len(next(iter(sources.values()))) != shape[0]:
            raise ValueError(f"There are {shape[0]} sequences for {len(next(iter(sources.values())))} sources.")
        if lengths is not None:
            lengths = as_integers(lengths, "The lengths of the sequences")
            if lengths.shape != shape:
                raise ValueError(f"score takes lengths of shape {shape}, one a sequence, got shape {lengths.shape}.")
            lengths = lengths.reshape(-1)
        rows = self._read_rows(tokens, "The sequence", lengths, may_end=True)
        prompt_lengths = as_integers(prompt_lengths, "The prompt_lengths")
        if prompt_lengths.shape not in ((), shape[:1], shape):
            shapes = " or ".join(map(str, dict.fromkeys((shape[:1], shape))))
            raise ValueError(
                f"score takes as prompt_lengths an integer or integers of shape {shapes}, got shape "
                f"{prompt_lengths.shape} of {prompt_lengths.dtype}."
            )
        if prompt_lengths.size and prompt_lengths.min() < 1:
            raise ValueError(
                f"score takes prompt_lengths of at least 1, got {prompt_lengths.min()}: the first token has nothing "
                "before it to be judged by."
            )
        beams = shape if len(shape) == 2 else (*shape, 1)
        if prompt_lengths.ndim == 1:
            prompt_lengths = prompt_lengths[:, None]
        ids, lengths = rows.ids.reshape(*beams, rows.ids.shape[1]), rows.lengths.reshape(beams)
        prompt_lengths = np.broadcast_to(prompt_lengths, beams).astype("int32")
        places = np.arange(ids.shape[-1])
        judged = (places >= prompt_lengths[..., None]) & (places < lengths[..., None])
        check_range(ids[judged], "The sequence", self.graph.vocabulary_size, "what the model generates")
        return Sequences(sources, ids, lengths, prompt_lengths), shape

    def _name(self, inputs, prompts) -> tuple[dict, object]:
        """The sources by name, and the prompts."""
        names = list(self._slots)
        if isinstance(inputs, dict):
            named = dict(inputs)
        elif inputs is None:
            named = {}
        elif not names:
            named = {self._target: inputs}
        else:
            sources = list(inputs) if isinstance(inputs, list | tuple) and len(names) > 1 else [inputs]
            if len(sources) != len(names):
                raise ValueError(f"The model takes {len(names)} sources {names}, got {len(sources)}.")
            named = dict(zip(names, sources, strict=True))
        if self._target in named and prompts is not None:
            raise ValueError(f"The prompts were given twice, as '{self._target}' and as prompts.")
        return named, named.pop(self._target, prompts)

    def _read_sources(self, named: dict) -> dict[int, np.ndarray]:
        if set(named) != set(self._slots):
            raise ValueError(f"The model takes the sources {list(self._slots)}, got {sorted(named)}.")
        sources = {self._slots[name]: self._read_source(self._slots[name], source) for name, source in named.items()}
        batches = {len(source) for source in sources.values()}
        if len(batches) > 1:
            raise ValueError(f"The sources differ in their number of rows: {sorted(batches)}.")
        return sources

    def _read_source(self, slot: int, source) -> np.ndarray:
        tensor = self.graph.model.inputs[slot]
        what, dtype = f"The source '{tensor.name}'", _dtype(tensor)
        if dtype == "string":
            return _read_strings(source, what, tensor.shape)
        if is_text(source):
            source = self.texts.encode_source(source, self.may_pad(slot))
        if not (isinstance(source, np.ndarray) and source.dtype == object):  # that is a list of rows
            _check_shape(what, source, tensor.shape)
        if slot in self._limits or "int" in dtype:
            source = self._read_ids(slot, source, what, len(tensor.shape))
        else:
            source = _read_features(source, what)
        _check_shape(what, source, tensor.shape)
        return source

    def _read_ids(self, slot: int, source, what: str, rank: int) -> np.ndarray:
        """The ids of a source, as wide as they were given: what pads an array is the model's affair."""
        layer, size = self._limits.get(slot, (None, None))
        owner = "the model" if layer is None else describe(layer)
        if rank != 2:
            ids = as_integers(source, what)
            check_range(ids, what, size, owner)
            return ids
        rows = read_rows(source, what, padding_id=None, vocabulary_size=size, owner=owner)
        if (rows.lengths == rows.ids.shape[1]).all():
            return rows.ids
        padding_id = self.graph.padding_id(slot)
        if padding_id is None or not self.may_pad(slot):
            raise ValueError(
                f"{what} has rows of {rows.lengths.min()} to {rows.lengths.max()} ids, and the model does not mask "
                f"what would pad the shorter ones{' (padding_id=None)' if padding_id is None else ''}. Give rows of "
                "one length at a time, or an array that is padded as in training."
            )
        return np.where(np.arange(rows.ids.shape[1]) < rows.lengths[:, None], rows.ids, padding_id).astype("int32")

    def _read_prompts(self, prompts, lengths, batch: int | None, max_length: int) -> Rows:
        """Prompts (B, P) without empty rows and needless columns, and their lengths (B,), int32."""
        if prompts is None:
            if self.special.start is None:
                raise ValueError("Generator was given neither a prompt nor, when it was made, a start_token.")
            prompts = [[]] * (1 if batch is None else batch)
        if is_text(prompts):
            if lengths is not None:
                raise ValueError("lengths are those of arrays of ids; the prompts are texts.")
            prompts = self.texts.encode_prompts(prompts)
        ids, lengths = self._read_rows(prompts, "The prompt", lengths)
        if batch is not None and len(ids) != batch:
            raise ValueError(f"There are {len(ids)} prompts for {batch} rows of sources.")
        if (lengths == 0).any():
            if self.special.start is None:
                rows = np.flatnonzero(lengths == 0).tolist()
                raise ValueError(f"The prompts of the rows {rows} are empty and there is no start_token to begin with.")
            ids = np.pad(ids, ((0, 0), (0, int(ids.shape[1] == 0))), constant_values=self.special.fill)
            ids[lengths == 0, 0] = self.special.start
            lengths = np.maximum(lengths, 1)
        if ids.shape[1] > max_length:
            raise ValueError(f"A prompt has {ids.shape[1]} tokens; max_length, {max_length}, counts them, too.")
        return Rows(ids, lengths)

    def _read_rows(self, values, what: str, lengths, may_end: bool = False) -> Rows:
        """Target sequences, padded with `fill`. With `may_end`, the first padding id of a row in an array counts where
        that is what ends a sequence."""
        layer, size = self._limits.get(self.graph.target, (None, self.graph.vocabulary_size))
        special = self.special
        return read_sequences(
            values,
            what,
            padding_id=special.padding,
            is_token=special.padding in special.ends or special.padding == special.start,
            is_hidden=special.is_hidden,
            may_end=may_end and special.padding in special.ends,
            lengths=lengths,
            vocabulary_size=size,
            owner="the model" if layer is None else describe(layer),
        )


def _dtype(tensor) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


def _read_strings(values, what: str, expected: tuple) -> np.ndarray:
    """Texts for a model that turns them to ids itself, in its shape: (B,) or (B, 1)."""
    is_text(values)  # a single one is refused
    array = np.asarray(values, object)
    if not all(isinstance(x, str | bytes) for x in array.ravel()):
        kinds = sorted({type(x).__name__ for x in array.ravel()} - {"str", "bytes"})
        raise ValueError(f"{what} takes strings, got {kinds} of shape {array.shape}.")
    if sorted((array.ndim, len(expected))) == [1, 2] and 1 in (*array.shape[1:], *expected[1:]):
        array = array.reshape(-1, *expected[1:])
    _check_shape(what, array, expected)
    return array


def _read_features(values, what: str) -> np.ndarray:
    """Numbers that are no ids."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{what} takes numbers in a regular shape: {error}") from error
    if array.dtype.kind not in "fiubV":  # V: bfloat16
        given = type(values).__name__ if array.ndim == 0 else f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"{what} takes real numbers in a regular shape, an array, got {given}.")
    return array


def _check_shape(what: str, values, expected: tuple) -> None:
    """Raise ValueError unless an array or tensor has the expected shape, as far as that is known."""
    if not (isinstance(values, np.ndarray) or keras.ops.is_tensor(values)):
        return
    shape = tuple(values.shape)
    if len(shape) != len(expected) or any(
        wanted is not None and wanted != given for wanted, given in zip(expected, shape, strict=True)
    ):
        raise ValueError(f"{what} has shape {shape}; the model takes {tuple(expected)}.")


def _without_beams(tokens) -> tuple[object, tuple]:
    """Sequences (B, T) or (B, N, T), arrays or lists, as rows, and what they are shaped as: (B,) or (B, N)."""
    if type(tokens).__name__ == "RaggedTensor":
        tokens = tokens.to_list()
    is_list = isinstance(tokens, list | tuple)
    tokens = tokens if is_list else as_integers(tokens, "The sequence")
    if is_list and not tokens:
        return tokens, (0,)
    if _depth(tokens) not in (2, 3):
        raise ValueError(
            "score takes sequences of shape (batch, length) or (batch, beams, length), integers padded on the right, "
            f"or lists of lists, got shape {np.shape(tokens)}."
        )
    if not is_list:
        return tokens.reshape(-1, tokens.shape[-1]), tokens.shape[:-1]
    if _depth(tokens) < 3:
        return tokens, (len(tokens),)
    beams = {len(rows) for rows in tokens}
    if len(beams) > 1:
        raise ValueError(f"score takes as many sequences for each row, got {sorted(beams)}.")
    return [row for rows in tokens for row in rows], (len(tokens), *beams)


def _depth(values) -> int:
    """The number of dimensions of an array, or of nested lists by their first entries."""
    if not isinstance(values, list | tuple):
        return np.ndim(values)
    return 1 + (_depth(values[0]) if values else 0)
