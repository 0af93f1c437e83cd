"""Texts in place of ids: a Generator's tokenizers."""

import sys
from collections.abc import Sequence

import numpy as np

from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.special import SpecialTokens
from keras_transformer.text.tokenizer import Tokenizer


def is_text(values) -> bool:
    """Whether a user handed over strings; ValueError for a single one, and for other forms of them than a list."""
    if isinstance(values, str | bytes):
        raise ValueError(f"Generator takes a list of strings; put a single one in a list: [{values!r}].")
    if isinstance(values, list | tuple):
        others = [type(x).__name__ for x in values if not isinstance(x, str | bytes)]
        if 0 < len(others) < len(values):
            raise ValueError(f"Generator takes a list of strings, got one with {sorted(set(others))} among them.")
        return bool(values) and not others
    dtype = getattr(values, "dtype", None)
    if isinstance(values, np.ndarray) and values.dtype.kind in "OUS":
        return values.ndim == 1 and values.size > 0 and all(isinstance(x, str | bytes) for x in values)
    if getattr(dtype, "name", "") != "string":
        return False
    rank = getattr(getattr(values, "shape", None), "rank", 1)  # of TensorFlow's tensors, ragged ones among them
    if rank != 1:
        raise ValueError(f"Generator takes strings of shape (B,), got a tensor of them of rank {rank}.")
    return True


class Texts:
    """Turns texts to the ids of a model and back.

    Args:
        graph: The model.
        special: The tokens that have a meaning of their own.
        source_tokenizer: Of the one source; in a decoder-only model, of the prompts.
        target_tokenizer: Of what is generated, and of prompts unless there is another one.

    Raises:
        ValueError: If a tokenizer has nothing to do, cannot do it, or has another vocabulary than the model.
    """

    def __init__(self, graph: Graph, special: SpecialTokens, source_tokenizer=None, target_tokenizer=None):
        self.special = special
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer
        self._has_sources = len(graph.input_names) > 1
        self._check(graph)

    def _check(self, graph: Graph) -> None:
        sources = [slot for slot in range(len(graph.input_names)) if slot != graph.target]
        for tokenizer in (self.source_tokenizer, self.target_tokenizer):
            if isinstance(tokenizer, type):
                raise ValueError(f"Generator takes a tokenizer, got the class {tokenizer.__name__}: make one of it.")
        if self.source_tokenizer is not None:
            if len(sources) > 1:
                raise ValueError(
                    f"A source_tokenizer makes the one source of a model; this one has {len(sources)}: give ids."
                )
            if not callable(self.source_tokenizer):
                raise ValueError(f"Generator takes a tokenizer as source_tokenizer, got {self.source_tokenizer!r}.")
            (slot,) = sources or [graph.target]
            limit, size = graph.vocabulary_limits().get(slot, (None, None))[1], _size(self.source_tokenizer)
            if limit is not None and size is not None and size > limit:
                raise ValueError(f"The source tokenizer has {size} ids, the model's source vocabulary {limit}.")
        if self.target_tokenizer is not None:
            if not callable(getattr(self.target_tokenizer, "detokenize", None)):
                raise ValueError(
                    "Generator takes as target_tokenizer what turns ids to text, by a method detokenize, got "
                    f"{type(self.target_tokenizer).__name__}."
                )
            size = _size(self.target_tokenizer)
            if size is not None and size < graph.vocabulary_size:
                raise ValueError(
                    f"The target tokenizer has {size} ids, the model generates {graph.vocabulary_size} different ones."
                )

    def encode_source(self, strings) -> list[list[int]]:
        """The ids of source texts."""
        if self.source_tokenizer is None:
            raise ValueError("The sources are texts, and Generator was made without a source_tokenizer: give ids.")
        return encode(self.source_tokenizer, strings)

    def encode_prompts(self, strings) -> list[list[int]]:
        """The ids of texts that target sequences begin with: without an end, and, where there are sources, with the
        start token first."""
        own = None if self._has_sources else self.source_tokenizer
        tokenizer = self.target_tokenizer if own is None else own
        if tokenizer is None:
            raise ValueError("The prompts are texts, and Generator was made without a target_tokenizer: give ids.")
        rows = encode(tokenizer, strings)
        if isinstance(tokenizer, Tokenizer) and tokenizer.add_end:
            rows = [row[:-1] for row in rows]
        if self._has_sources and self.special.start is not None:
            rows = [row if row[:1] == [self.special.start] else [self.special.start, *row] for row in rows]
        return rows

    def decode(self, tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
        """The texts of sequences (R, L), of which `lengths` (R,) tokens count: without what starts and ends them."""
        rows = []
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
            row = row[:length]
            row = row[:-1] if row and row[-1] in self.special.ends else row
            rows.append(row[1:] if row[:1] == [self.special.start] else row)
        return decode(self.target_tokenizer, rows)


def encode(tokenizer, strings) -> list[list[int]]:
    """The ids of texts by a tokenizer of this package or of KerasHub, or a function of a list of strings that gives
    lists, a ragged tensor, or an array padded on the right."""
    strings = [x.decode() if isinstance(x, bytes) else str(x) for x in np.asarray(strings, object).ravel().tolist()]
    try:  # ours tell how long a row is, also where what pads it is a token, too
        ids = tokenizer.tokenize_ragged(strings) if isinstance(tokenizer, Tokenizer) else tokenizer(strings)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{_name(tokenizer)} makes no ids of {strings[:3]!r}: {error}") from error
    if type(ids).__name__ == "RaggedTensor":
        ids = ids.to_list()
    if isinstance(ids, list | tuple):
        rows = [np.asarray(row).tolist() for row in ids]
    else:
        padding = getattr(tokenizer, "pad_id", getattr(tokenizer, "pad_token_id", None)) or 0
        rows = [_stripped(row, padding) for row in np.asarray(ids).tolist()]
    if not all(isinstance(row, list) and all(isinstance(x, int) for x in row) for row in rows):
        raise ValueError(f"{_name(tokenizer)} makes no ids of {strings[:3]!r}, but {rows[:3]!r}.")
    return [[x for x in row if x >= 0] for row in rows]  # KerasHub gives -1 to a byte that it does not know


def decode(tokenizer, rows: Sequence[Sequence[int]]) -> list[str]:
    """The texts of rows of ids. Bytes that are no UTF-8 read U+FFFD."""
    if not rows:
        return []
    keras_hub = sys.modules.get("keras_hub")  # who has one of its tokenizers has imported it
    if keras_hub is not None and isinstance(tokenizer, keras_hub.tokenizers.Tokenizer):
        texts = [tokenizer.detokenize(row) if row else "" for row in rows]
    elif getattr(tokenizer, "pad_id", 0) is None:  # nothing can stand behind a shorter row
        texts = [np.asarray(tokenizer.detokenize(np.array([row], np.int32)))[0] if row else "" for row in rows]
    else:
        table = np.full((len(rows), max(1, *map(len, rows), 1)), getattr(tokenizer, "pad_id", 0), np.int32)
        for place, row in enumerate(rows):
            table[place, : len(row)] = row
        texts = tokenizer.detokenize(table)
    texts = [np.asarray(text).item() if not isinstance(text, str | bytes) else text for text in list(np.asarray(texts))]
    return [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts]


def _stripped(row: list, padding: int) -> list:
    """A row without the padding at its end."""
    count = len(row)
    while count and row[count - 1] == padding:
        count -= 1
    return row[:count]


def _size(tokenizer) -> int | None:
    """The size of a tokenizer's vocabulary, an attribute or a method; None if it does not tell."""
    size = getattr(tokenizer, "vocabulary_size", None)
    return size() if callable(size) else size


def _name(tokenizer) -> str:
    return getattr(tokenizer, "name", type(tokenizer).__name__)
