"""Texts in place of ids: a Generator's tokenizers."""

import sys
from collections.abc import Sequence

import numpy as np

from keras_transformer.decoding.compiling import failures
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.special import SpecialTokens
from keras_transformer.text.tokenizer import Tokenizer


def is_text(values) -> bool:
    """Whether a user handed over strings, of whatever shape; ValueError for a single one, and for a list of
    some."""
    is_array = isinstance(values, np.ndarray)
    if is_array and values.dtype.kind == "O":
        is_strings = values.size > 0 and all(isinstance(x, str | bytes) for x in values.ravel())
    elif is_array:
        is_strings = values.dtype.kind in "UST"
    elif isinstance(values, list | tuple):
        others = {type(x).__name__ for x in values if not isinstance(x, str | bytes)}
        is_strings = bool(values) and not others
        if others and any(isinstance(x, str | bytes) for x in values):
            raise ValueError(f"Generator takes a list of strings, got one with {sorted(others)} among them.")
    else:
        is_strings = isinstance(values, str | bytes) or getattr(getattr(values, "dtype", None), "name", "") == "string"
    if is_strings and (isinstance(values, str | bytes) or values is not None and np.shape(values) == ()):
        raise ValueError(f"Generator takes a list of strings; put a single one in a list: [{values!r}].")
    return is_strings


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
                raise too_few_ids(size, graph.vocabulary_size)

    def encode_source(self, strings, may_pad: bool) -> list[list[int]] | np.ndarray:
        """The ids of source texts; an array, padded as the tokenizer pads, where padding is not without effect."""
        if self.source_tokenizer is None:
            raise ValueError("The sources are texts, and Generator was made without a source_tokenizer: give ids.")
        return encode(self.source_tokenizer, strings, as_padded=not may_pad)

    def encode_prompts(self, strings) -> list[list[int]]:
        """The ids of texts that target sequences begin with: without an end, and, where there are sources, with the
        start token first."""
        own = None if self._has_sources else self.source_tokenizer
        tokenizer = self.target_tokenizer if own is None else own
        if tokenizer is None:
            raise ValueError("The prompts are texts, and Generator was made without a target_tokenizer: give ids.")
        rows = list(encode(tokenizer, strings))
        if isinstance(tokenizer, Tokenizer):
            rows = [row[: len(row) - len(tokenizer.frame[1])] for row in rows]
        if self._has_sources and self.special.start is not None:
            rows = [row if row[:1] == [self.special.start] else [self.special.start, *row] for row in rows]
        return rows

    def decode(self, tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
        """The texts of sequences (R, L), of which `lengths` (R,) tokens count: without what starts and ends them.

        An end within them is one of the prompt, and ends nothing.
        """
        rows = []
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
            row = row[:length]
            row = row[:-1] if row and row[-1] in self.special.ends else row
            rows.append(row[1:] if row[:1] == [self.special.start] else row)
        return decode(self.target_tokenizer, rows, self.special)


def encode(tokenizer, strings, as_padded: bool = False) -> list[list[int]] | np.ndarray:
    """The ids of texts by a tokenizer of this package or of KerasHub, or a function of a list of strings that gives
    lists, a ragged tensor, or an array padded on the right, which, `as_padded`, is returned as it is."""
    strings = as_strings(strings)
    if not strings:
        return []
    # Where every id is one of text, or an end is also padding, only rows of their own lengths tell where a text ends.
    is_own = isinstance(tokenizer, Tokenizer) and not (as_padded and tokenizer.padding_id is not None)
    try:
        ids = tokenizer.tokenize_ragged(strings) if is_own else tokenizer(strings)
    except failures() + (AttributeError,) as error:
        raise ValueError(f"{_name(tokenizer)} makes no ids of {strings[:3]!r}: {error}") from error
    if type(ids).__name__ == "RaggedTensor":
        ids = ids.to_list()
    if isinstance(ids, list | tuple):
        rows = [np.asarray(row).tolist() for row in ids]
    elif as_padded and np.ndim(ids) == 2:
        return np.asarray(ids)
    else:
        padding = getattr(tokenizer, "pad_id", getattr(tokenizer, "pad_token_id", None)) or 0
        rows = [_stripped(row, padding) for row in np.asarray(ids).tolist()]
    if not all(isinstance(row, list) and all(isinstance(x, int) for x in row) for row in rows):
        raise ValueError(f"{_name(tokenizer)} makes no ids of {strings[:3]!r}, but {rows[:3]!r}.")
    return [[x for x in row if x >= 0] for row in rows]  # KerasHub gives -1 to a byte that it does not know


def as_strings(values) -> list[str]:
    """Texts as a list; ValueError unless they are strings, one a row, of UTF-8."""
    values = values.to_list() if type(values).__name__ == "RaggedTensor" else values
    array = np.asarray(values, object)
    if array.ndim != 1 or not all(isinstance(x, str | bytes) for x in array):
        raise ValueError(f"Generator takes texts as strings of shape (batch,), got shape {array.shape}: {values!r}.")
    try:
        return [x.decode() if isinstance(x, bytes) else str(x) for x in array]
    except UnicodeDecodeError as error:
        raise ValueError(f"Generator takes texts of UTF-8, got {error.object!r}: {error}.") from error


def decode(tokenizer, rows: Sequence[Sequence[int]], special: SpecialTokens) -> list[str]:
    """The texts of rows of ids, each whole. Bytes that are no UTF-8 read U+FFFD."""
    if not rows:
        return []
    keras_hub = sys.modules.get("keras_hub")  # who has one of its tokenizers has imported it
    if keras_hub is not None and isinstance(tokenizer, keras_hub.tokenizers.Tokenizer):
        nothing = {special.start, special.padding, *special.ends}  # which its tokenizer does not know, or writes out
        rows = [[id for id in row if id not in nothing] for row in rows]
        texts = [tokenizer.detokenize(row) if row else "" for row in rows]
    elif isinstance(tokenizer, Tokenizer):
        lengths = [len(row) for row in rows]
        texts = tokenizer.detokenize(_table(rows, tokenizer.padding_id or 0), lengths=lengths)
    elif getattr(tokenizer, "pad_id", 0) is None:  # nothing can stand behind a shorter row
        texts = [np.asarray(tokenizer.detokenize(np.array([row], np.int32)))[0] if row else "" for row in rows]
    else:
        texts = tokenizer.detokenize(_table(rows, getattr(tokenizer, "pad_id", 0)))
    texts = texts if isinstance(texts, list) else np.asarray(texts, object).tolist()
    texts = [text if isinstance(text, str | bytes) else np.asarray(text).item() for text in texts]
    return [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts]


def _table(rows: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    """Rows as an array (R, T), at least one id wide, padded on the right."""
    table = np.full((len(rows), max(1, *map(len, rows), 1)), padding, np.int32)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table


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


def too_few_ids(size: int, needed: int) -> ValueError:
    """The error for a tokenizer that lacks ids that a model generates."""
    return ValueError(
        f"The target tokenizer has {size} ids, the model generates {needed} different ones. Where those beyond are no "
        f"tokens, as in checkpoints whose table was rounded up: kt.pretrained.load_tokenizer(vocabulary_size={needed})."
    )
