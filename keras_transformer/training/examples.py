"""What batches are made of: sequences of ids, single or in pairs, checked once and then taken by number.

A side is what one input of the model sees: of a source all ids, of a target, and of a single sequence, all but the
last. The labels are all but the first. With `shift=False` input and labels are both the whole sequence.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import numpy as np

from keras_transformer.text.keras_hub import as_tokenizer
from keras_transformer.text.tokenizer import Tokenizer

CHUNK = 4096  # examples that are checked at a time
LARGEST = np.iinfo("int32").max


class Examples:
    """The examples of a training set that are not too long, with the lengths of their sides.

    Args:
        owner: Who takes them, for error messages.
        examples: A sequence of rows of ids or of pairs of them; with `tokenizers`, of texts or of pairs of texts.
        tokenizers: What makes ids of texts: a tokenizer, or a function from (B,) texts to B lists of ids, or to (B, T)
            padded; for pairs one for both sides, or two.
        vocabulary_size: Ids lie below it; for pairs one number for both sides, or two. None: no check.
        limit: What the length of the longest side is called, and the length; for pairs one number for both sides, or
            two. None: no limit.
        padding_id: The id that inputs are padded with, and no example holds; for pairs one for both sides, or two.
            None: every id is a token. "auto": that of the tokenizers, else 0.
        ignore_id: The label that labels are padded with, and no example holds. None: the target's padding id, or -100
            if it has none.
        shift: Whether labels are the ids that follow, or else those of the input. Pairs have the former only.

    Attributes:
        padding_ids: For each side.
        lengths: (N, 1 or 2), int32. Of the sides of each example.
        limits: The length of the longest side, for each side.
        too_long: How many examples were left out.
    """

    def __init__(
        self,
        owner: str,
        examples: Sequence,
        *,
        tokenizers,
        vocabulary_size,
        limit,
        padding_id="auto",
        ignore_id=None,
        shift: bool = True,
    ):
        self.owner = owner
        (limit_name, longest), *_ = limit.items()
        try:
            count = len(examples)
            self.paired = count > 0 and _is_pair(examples[0])
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{owner} takes a list, an array or another sequence of rows of ids or of pairs of them, or what "
                "`read_texts` or `read_pairs` returns. Put what a generator yields into a list. "
                f"Received: {type(examples).__name__}"
            ) from error
        if not count:
            raise ValueError(f"{owner} was given no examples.")
        self._examples = examples
        self.sides = 2 if self.paired else 1
        if self.paired and not shift:
            raise ValueError(f"{owner} takes shift=False with single sequences: a decoder learns to give what follows.")
        self.shift = bool(shift)
        self._set_tokenizers(self._per_side("tokenizers", tokenizers, "a tokenizer", callable), padding_id)
        self._set_ignore_id(ignore_id)
        self._vocabulary_sizes = self._per_side("vocabulary_size", vocabulary_size, "a positive integer", is_positive)
        self.limits = self._per_side(limit_name, longest, "a positive integer", is_positive)
        self._numbers = np.arange(count)
        lengths = [self._check(self._numbers[i : i + CHUNK]) for i in range(0, count, CHUNK)]
        self.lengths = np.concatenate(lengths)
        fits = np.ones(count, bool)
        for limit, side in zip(self.limits, self.lengths.T, strict=True):
            fits &= True if limit is None else side <= limit
        self.too_long = int(count - fits.sum())
        if self.too_long:
            self._leave_out(fits, f"{limit_name}={longest}")

    def __len__(self) -> int:
        return len(self._numbers)

    def _per_side(self, name: str, value, kind: str, is_valid: Callable) -> list:
        """The value of each side, from one for all or one for each."""
        values = [value] * self.sides if not isinstance(value, list | tuple) else list(value)
        if len(values) != self.sides or not all(one is None or is_valid(one) for one in values):
            number = "one for source and target or one for each" if self.paired else "one"
            raise ValueError(f"{self.owner} takes {kind} as {name}, {number}. Received: {value!r}")
        return values

    def _set_tokenizers(self, tokenizers: list, padding_id) -> None:
        given = padding_id if isinstance(padding_id, list | tuple) else [padding_id] * self.sides
        own = [tokenizer.padding_id if isinstance(tokenizer, Tokenizer) else 0 for tokenizer in tokenizers]
        values = [own[i] if value == "auto" and i < self.sides else value for i, value in enumerate(given)]
        self.padding_ids = self._per_side("padding_id", values, "an id that is not negative, None or 'auto'", _is_id)
        self._tokenizers = [
            as_tokenizer(tokenizer, SimpleNamespace(padding_id=padding))
            for tokenizer, padding in zip(tokenizers, self.padding_ids, strict=True)
        ]
        for tokenizer in self._tokenizers:
            if isinstance(tokenizer, Tokenizer) and tokenizer.max_length is not None:
                raise ValueError(
                    f"{self.owner}: the tokenizer '{tokenizer.name}' has max_length={tokenizer.max_length} and would "
                    "cut longer texts without a word. Make it without, and give the length here: longer examples are "
                    "then left out and counted."
                )
        tokenizer = self._tokenizers[-1]
        if self.paired and isinstance(tokenizer, Tokenizer) and not (tokenizer.add_start and tokenizer.add_end):
            raise ValueError(
                f"{self.owner}: the tokenizer of the targets has add_start={tokenizer.add_start} and "
                f"add_end={tokenizer.add_end}; a decoder begins with the start id and learns to end with the end id. "
                "Make both True, as tokenizer.copy(add_start=True, add_end=True) does, or wrap one of KerasHub in a "
                "function that adds both."
            )

    def _set_ignore_id(self, ignore_id) -> None:
        if ignore_id is None:
            ignore_id = -100 if self.padding_ids[-1] is None else self.padding_ids[-1]
        elif isinstance(ignore_id, bool) or not isinstance(ignore_id, int | np.integer):
            raise ValueError(f"{self.owner} takes an integer or None as ignore_id. Received: {ignore_id!r}")
        self.ignore_id = int(ignore_id)

    def _leave_out(self, fits, limit: str) -> None:
        if not fits.any():
            raise ValueError(
                f"{self.owner}: all {len(fits)} examples are longer than {limit}; the shortest has "
                f"{self.lengths.max(axis=1).min()} positions. Make it larger."
            )
        warnings.warn(
            f"{self.owner} leaves out {self.too_long} of {len(fits)} examples, which are longer than {limit}.",
            stacklevel=5,
        )
        self._numbers, self.lengths = self._numbers[fits], self.lengths[fits]

    def _check(self, numbers) -> np.ndarray:
        """The lengths of the sides of examples, all of whose ids are looked at."""
        lengths = []
        for side, (ids, counts) in enumerate(self._read(numbers)):
            is_target = side == self.sides - 1
            cut = is_target and self.shift
            size = self._vocabulary_sizes[side]
            owners = np.repeat(numbers, counts)
            self._refuse(numbers[counts < 1 + cut], side, f"has fewer than {1 + cut} ids", cut)
            padding = self.padding_ids[side]
            if padding is not None:
                self._refuse(owners[ids == padding], side, f"holds the id {padding}, which is padding")
            if is_target and self.ignore_id != padding:
                self._refuse(owners[ids == self.ignore_id], side, f"holds the id {self.ignore_id}, the ignore_id")
            self._refuse(owners[ids < 0], side, "holds a negative id")
            if size is None:
                self._refuse(owners[ids > LARGEST], side, f"holds an id that int32 cannot hold, above {LARGEST}")
            else:
                self._refuse(owners[ids >= size], side, f"holds an id outside of the vocabulary of {size}")
            lengths.append(counts - cut)
        return np.stack(lengths, axis=1).astype("int32")

    def _refuse(self, numbers, side: int, reason: str, is_target: bool = False) -> None:
        if not len(numbers):
            return
        example = self._examples[int(numbers[0])]
        name = ("the source", "the target")[side] if self.paired else "it"
        remedy = ". A model is given all but the last and learns to give all but the first" if is_target else ""
        raise ValueError(f"{self.owner}: example {numbers[0]}: {name} {reason}{remedy}: {str(example)[:200]}")

    def _read(self, numbers) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each side the ids of examples, end to end, and how many each has."""
        if not len(numbers):  # a worker's part of the last batch
            return [(np.zeros(0, "int32"), np.zeros(0, "int32"))] * self.sides
        examples = [self._examples[int(number)] for number in numbers]
        if self.paired:
            for number, example in zip(numbers, examples, strict=True):
                if len(example) != 2:
                    raise ValueError(
                        f"{self.owner} takes pairs (source, target), as the first example is one; example {number} "
                        f"has {len(example)} parts."
                    )
            columns = zip(*examples, strict=True)
        else:
            columns = [examples]
        return [
            self._ids(numbers, column) if tokenizer is None else self._tokenize(numbers, tokenizer, padding, column)
            for column, tokenizer, padding in zip(columns, self._tokenizers, self.padding_ids, strict=True)
        ]

    def _ids(self, numbers, rows) -> tuple[np.ndarray, np.ndarray]:
        arrays = [_array(row) for row in rows]
        for number, array in zip(numbers, arrays, strict=True):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                advice = ""
                if array.dtype.kind in "US":
                    advice = " Give `tokenizers` for texts."
                elif array.dtype.kind == "O" or not array.ndim:
                    advice = " Either all examples are rows of ids, or all are pairs of them, as the first is."
                raise ValueError(
                    f"{self.owner} takes rows of integer ids; example {number} is of shape {array.shape} and dtype "
                    f"{array.dtype}.{advice}"
                )
        return np.concatenate(arrays), np.array([len(array) for array in arrays])

    def _tokenize(self, numbers, tokenizer, padding_id, texts) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(tokenizer, Tokenizer):  # which tells how long a text is, whatever ids it has
            rows = tokenizer.tokenize_ragged(list(texts))
            return np.asarray(rows.flat_values), np.asarray(rows.row_lengths())
        rows = tokenizer(list(texts))
        rows = rows.to_list() if type(rows).__name__ == "RaggedTensor" else rows
        if isinstance(rows, Mapping) or len(rows) != len(texts):
            raise ValueError(
                f"{self.owner} takes tokenizers that give a list of ids for each text, or all in one array, padded. "
                f"Received: {type(rows).__name__}{f' of {sorted(rows)}' if isinstance(rows, Mapping) else ''}. Wrap it "
                "in a function: lambda texts: tokenizer(texts)['input_ids']."
            )
        if isinstance(rows, list | tuple):
            return self._ids(numbers, rows)
        table = np.asarray(rows)
        if table.ndim != 2:
            raise ValueError(f"{self.owner} takes tokenizers that give rows of ids. Received: shape {table.shape}")
        counts = np.full(len(table), table.shape[1])
        if padding_id is not None:  # it may stand behind a row only; within one, `_check` refuses it
            counts = table.shape[1] - np.argmax(table[:, ::-1] != padding_id, axis=1)
            counts[(table == padding_id).all(axis=1)] = 0
        return self._ids(numbers, [row[:count] for row, count in zip(table, counts, strict=True)])

    def take(self, indices) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """Of examples, for each side what the model sees, end to end, and the lengths; and the labels."""
        *sources, (ids, counts) = self._read(self._numbers[indices])
        if not self.shift:
            return [(ids, counts)], ids
        ends = np.cumsum(counts)
        return [*sources, (np.delete(ids, ends - 1), counts - 1)], np.delete(ids, ends - counts)


def _is_pair(example) -> bool:
    if isinstance(example, str) or not len(example):
        return False
    return isinstance(example[0], str) or np.ndim(example[0]) > 0


def _array(row) -> np.ndarray:
    """A row as an array; of objects if it is none of numbers, as a pair of lists among rows of ids."""
    if isinstance(row, list | tuple) and any(isinstance(x, list | tuple) for x in row):
        return np.array([None, *row], object)[1:]
    array = np.asarray(row)
    return array if array.size else np.zeros(0, "int32")


def _is_id(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) <= LARGEST


def is_positive(value) -> bool:
    """Whether a value is a positive integer."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def place(values, lengths, rows, starts, shape: tuple[int, int], fill: int | None = 0) -> np.ndarray:
    """Sequences that lie end to end in `values`, each written to its row from its start on, int32; the rest is `fill`,
    or 0 where there is none."""
    array = np.full(shape, fill or 0, "int32")
    array[np.repeat(rows, lengths), np.repeat(starts, lengths) + count_up(lengths)] = values
    return array


def count_up(lengths) -> np.ndarray:
    """0, 1, ..., n - 1 for each n of `lengths`, end to end."""
    return np.arange(np.sum(lengths)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
