"""Token ids as people hand them over, checked: the same in Python's Generator and in the runner of an export."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LARGEST = 2**31 - 1  # wherever ids are used they are int32


class Rows(NamedTuple):
    """Sequences of ids, one a row."""

    ids: np.ndarray  # (B, T), int32; behind its length a row holds the padding id, or 0 where there is none
    lengths: np.ndarray  # (B,), int32


def read_rows(
    values,
    what: str,
    *,
    padding_id: int | None = 0,
    lengths=None,
    vocabulary_size: int | None = None,
    owner: str = "the model",
    inner_padding: bool = False,
) -> Rows:
    """Sequences of ids, however they were given, as padded rows and their lengths.

    A row is as long as `lengths` says; else as its list, or, in an array, as the array is wide, less the padding ids
    that it ends with.

    Args:
        values: (B, T) integers, padded on the right; or B lists or arrays; or a ragged tensor.
        what: How a message names them, "The prompt" say.
        padding_id: The id that stands for no token; None where every id is a token.
        lengths: (B,) integers. Tokens in each row; what lies behind them is not read.
        vocabulary_size: Ids are from 0 up to it. None: any integer of 32 bits.
        owner: What has that vocabulary.
        inner_padding: Whether padding may stand before a token, as it may where a mask hides it.

    Raises:
        ValueError: If these are no rows of integers (floats and booleans are none), an id is out of the vocabulary or
            of int32, padding stands before a token, or `lengths` does not fit.

    Example:

    >>> from keras_transformer_runtime.ids import read_rows
    >>> rows = read_rows([[7, 5, 3], [2]], "The prompt")
    >>> rows.ids.tolist(), rows.lengths.tolist()
    ([[7, 5, 3], [2, 0, 0]], [3, 1])
    """
    ids, widths = _as_table(values, what)
    if lengths is None:
        counts = widths if padding_id is None else count_tokens(ids, padding_id, widths)
    else:
        counts = _check_lengths(lengths, widths, what)
    real = np.arange(ids.shape[1]) < counts[:, None]
    check_range(ids[real], what, vocabulary_size, owner)
    if padding_id is not None and not inner_padding and (real & (ids == padding_id)).any():
        raise ValueError(
            f"{what} must be padded on the right only; there is a {padding_id}, the id of padding, before a token."
        )
    ids = np.where(real, ids, 0 if padding_id is None else padding_id)[:, : counts.max(initial=0)]
    return Rows(ids.astype(np.int32), counts.astype(np.int32))


def read_sequences(
    values, what: str, *, padding_id: int | None, is_token: bool, is_hidden: bool, may_end: bool = False, **options
) -> Rows:
    """As `read_rows`, where the padding id may also be a token that sequences start or end with.

    Then a list says how long it is, and an array as always: the padding at its end does not count.

    Args:
        values, what, padding_id: As of `read_rows`.
        is_token: Whether the padding id is a token as well.
        is_hidden: Whether the model hides the padding id wherever it stands.
        may_end: Whether these are whole sequences: the first padding id at the end of a row in an array counts.
        **options: `lengths`, `vocabulary_size` and `owner` of `read_rows`.
    """
    if padding_id is None or not is_token:
        return read_rows(values, what, padding_id=padding_id, **options)
    ids, counts = read_rows(values, what, padding_id=None, **options)
    if options.get("lengths") is None and not isinstance(values, list | tuple):
        counts = np.minimum(count_tokens(ids, padding_id, counts) + may_end, ids.shape[1])
    real = np.arange(ids.shape[1]) < counts[:, None]
    seen = real[:, 1:] if may_end else real  # of a whole sequence the last token is not read
    if is_hidden and (seen & (ids == padding_id)[:, : seen.shape[1]]).any():
        raise ValueError(
            f"{what} must be padded on the right only; there is a {padding_id}, which the model hides as padding, "
            "before a token."
        )
    ids = np.where(real, ids, padding_id)[:, : counts.max(initial=0)]
    return Rows(ids.astype(np.int32), counts.astype(np.int32))


def as_integers(values, what: str) -> np.ndarray:
    """`values`, of any shape, as an array of integers; ValueError for floats, booleans and what is no array."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths within
        raise ValueError(f"{what} must be integers in a regular shape: {error}.") from error
    if array.size == 0 and array.dtype == np.float64:  # what NumPy makes of []
        return array.astype(np.int32)
    # NumPy hides booleans among integers, and integers of more than 64 bits are objects to it: then the items tell.
    items = _leaves(values) if isinstance(values, list | tuple) else array.ravel() if array.dtype == object else ()
    kinds = {type(x).__name__ for x in items if isinstance(x, bool | np.bool_) or not isinstance(x, int | np.integer)}
    if kinds or not (array.dtype == object or np.issubdtype(array.dtype, np.integer)):
        given = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"{what} must be integers, got {given}{f', with {sorted(kinds)} in it' if kinds else ''}.")
    return array


def check_range(
    ids: np.ndarray, what: str, vocabulary_size: int | None, owner: str = "the model", *, bits: int = 32
) -> None:
    """Raise ValueError unless all ids are from 0 to `vocabulary_size` - 1, or, that being None, of so many bits."""
    if not ids.size:
        return
    least, most = int(ids.min()), int(ids.max())
    if vocabulary_size is not None and (least < 0 or most >= vocabulary_size):
        raise ValueError(f"{what} has ids from {least} to {most}; {owner} takes ids from 0 to {vocabulary_size - 1}.")
    if not -(2 ** (bits - 1)) <= least <= most < 2 ** (bits - 1):
        raise ValueError(f"{what} has ids from {least} to {most}, which are not integers of {bits} bits.")


def count_tokens(ids: np.ndarray, padding_id: int, widths=None) -> np.ndarray:
    """How long each sequence of `ids` (..., T) is without the padding it ends with, (...). Only the first `widths`
    (...) of each are read, where given."""
    places = np.arange(1, ids.shape[-1] + 1)
    real = ids != padding_id
    if widths is not None:
        real &= places <= np.expand_dims(widths, -1)
    return np.max(real * places, axis=-1, initial=0)


def has_inner_padding(ids: np.ndarray, padding_id: int | None) -> bool:
    """Whether a token follows padding somewhere in sequences (..., T)."""
    if padding_id is None:
        return False
    return bool((count_tokens(ids, padding_id) != (ids != padding_id).sum(axis=-1)).any())


def _as_table(values, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows in whatever form as (B, T) integers, and the width of each."""
    tensorflow = sys.modules.get("tensorflow")  # who has a ragged tensor has imported it
    if tensorflow is not None and isinstance(values, tensorflow.RaggedTensor):
        values = values.to_list()
    of_objects = isinstance(values, np.ndarray) and values.dtype.kind == "O"  # what NumPy makes of a list of arrays
    if not (isinstance(values, list | tuple) or of_objects):
        table = as_integers(values, what)
        if table.ndim != 2:
            raise ValueError(
                f"{what} must be ids of shape (batch, length) or a list of lists, got shape {table.shape}."
            )
        return table, np.full((len(table),), table.shape[1], np.int64)
    rows = [as_integers(row, what) for row in values]
    if any(row.ndim != 1 for row in rows):
        shape = (len(rows), *next(row.shape for row in rows if row.ndim != 1))
        raise ValueError(f"{what} must be ids of shape (batch, length) or a list of lists, got shape {shape}.")
    widths = np.array([len(row) for row in rows], np.int64)
    wide = any(row.dtype in (object, np.uint64) for row in rows)
    table = np.zeros((len(rows), widths.max(initial=0)), object if wide else np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table, widths


def _check_lengths(lengths, widths: np.ndarray, what: str) -> np.ndarray:
    counts = as_integers(lengths, f"The lengths of {what[0].lower()}{what[1:]}")
    if counts.shape != widths.shape or (counts < 0).any() or (counts > widths).any():
        raise ValueError(
            f"{what} has {len(widths)} rows of up to {widths.max(initial=0)} ids; its lengths must be as many integers "
            f"from 0 to the width of their row, got {counts.tolist()}."
        )
    return counts.astype(np.int64)


def _leaves(values) -> Iterator:
    for value in values:
        yield from _leaves(value) if isinstance(value, list | tuple) else np.ravel(value) if np.ndim(value) else [value]
