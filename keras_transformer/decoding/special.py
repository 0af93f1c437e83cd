"""The tokens that mean something to a Generator: where sequences start and end, and what stands behind their end."""

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer._keras import layers_within
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.program import KEEP_IDS
from keras_transformer.decoding.settings import is_integer
from keras_transformer.layers.checks import describe
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.padding_mask import PaddingMask


class SpecialTokens(NamedTuple):
    """Ids with a meaning.

    Attributes:
        start: That sequences begin with where no prompt is given, or None.
        ends: After any of which a sequence ends; maybe none.
        padding: That arrays are padded with, or None where only lengths tell where a row ends.
        is_hidden: Whether the model hides the padding id wherever it stands, so that it cannot be part of a prompt.
    """

    start: int | None = None
    ends: tuple[int, ...] = ()
    padding: int | None = 0
    is_hidden: bool = True

    @property
    def fill(self) -> int:
        """What stands behind the end of a row."""
        return 0 if self.padding is None else self.padding

    @property
    def never(self) -> int | None:
        """The id that is never generated: padding, unless it is also what ends a sequence."""
        return None if self.padding in self.ends else self.padding

    @property
    def nothing(self) -> int:
        """What a stream gives for a row that has no new token: padding, or -1 where that is a token, too."""
        return -1 if self.never is None else self.never


def read_special_tokens(graph: Graph, start_token, end_token, padding_id) -> SpecialTokens:
    """The special tokens as a Generator was given them; `...` as `padding_id` stands for that of the model.

    Raises:
        ValueError: If one is no id of the vocabulary; if the model hides the token that sequences start with, or
            hides another id as padding than the one that is given.
    """
    generated = graph.vocabulary_size
    read = graph.vocabulary_limits().get(graph.target, (None, generated))[1]  # more than are generated, perhaps
    end_token = _plain(end_token)
    if end_token is None:
        ends = ()
    elif isinstance(end_token, Iterable) and not isinstance(end_token, str | bytes | Mapping):
        ends = tuple(dict.fromkeys(_read_id("end_token", token, generated) for token in end_token))
        ends = tuple(sorted(ends)) if isinstance(end_token, Set) else ends  # one of them is the first
        if not ends:
            raise ValueError("Generator was given no id in end_token. For sequences without an end: end_token=None.")
    else:
        ends = (_read_id("end_token", end_token, generated),)
    start = None if start_token is None else _read_id("start_token", start_token, read)
    hidden = hidden_ids(graph, graph.target)
    padding = graph.padding_id(graph.target) if padding_id is ... else padding_id
    if padding is not None:
        padding = _read_id("padding_id", padding, read)
    for id, layer in hidden.items():
        if id != padding:
            raise ValueError(
                f"{describe(layer)} hides id {id} as padding wherever it stands, so it can neither be generated nor "
                f"stand in a prompt, but Generator was given padding_id={padding}. Leave that away, or make the "
                f"embedding with padding_id={padding}."
            )
    if start in hidden:
        raise ValueError(
            f"Generator was given start_token={start}, which {describe(hidden[start])} hides as padding, so sequences "
            "would begin with nothing. Make the embedding with padding_id=None, or another id."
        )
    return SpecialTokens(start, ends, padding, padding in hidden)


def _read_id(name: str, token, size: int) -> int:
    token = _plain(token)
    if not is_integer(token) or not 0 <= token < size:
        what = {"end_token": "or a list of them, or None", "start_token": "or None", "padding_id": "or None"}[name]
        raise ValueError(
            f"Generator takes an id from 0 to {size - 1} as {name} (the model's vocabulary), {what}, got {token!r}."
        )
    return int(token)


def _plain(value):
    """Arrays and tensors as numbers and lists; anything else as it is."""
    value = keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value
    return value.tolist() if isinstance(value, np.ndarray) else value


def hidden_ids(graph: Graph, slot: int) -> dict[int, keras.layers.Layer]:
    """The ids of an input that an embedding which reads it hides from all other layers, and that embedding."""
    hidden = {}
    for instruction in graph.readers(slot, KEEP_IDS):
        reader = instruction.operation
        for layer in [reader, *layers_within(reader)] if isinstance(reader, keras.layers.Layer) else []:
            if isinstance(layer, TokenEmbedding | PaddingMask) and layer.padding_id is not None:
                hidden[layer.padding_id] = layer
            elif isinstance(layer, keras.layers.Embedding) and layer.mask_zero:
                hidden[0] = layer
    return hidden
