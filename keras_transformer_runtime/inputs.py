"""One input of an export: what it takes, and what people hand over for it, checked."""

from typing import NamedTuple

import numpy as np

from keras_transformer_runtime.ids import Rows, as_integers, check_range, read_rows, read_sequences


class Input(NamedTuple):
    """An input as the description of an export has it. Of what format 1 did not tell, nothing is known: None."""

    name: str
    shape: tuple | None  # None for a dimension that may vary
    dtype: str | None
    vocabulary_size: int | None  # of ids; None if they have no limit, or are features
    padding_id: int | None
    padded: bool  # whether shorter rows may be padded to the length of a file without changing the answer

    @classmethod
    def of(cls, described: dict) -> "Input":
        """The input that a description describes."""
        shape = described.get("shape")
        return cls(
            described["name"],
            None if shape is None else tuple(shape),
            described.get("dtype"),
            described.get("vocabulary_size"),
            described.get("padding_id", 0),
            described.get("padded") is not False,
        )

    @property
    def varying(self) -> list[int]:
        """The dimensions, behind that of rows, that may vary."""
        return [axis for axis, size in enumerate(self.shape or ()) if axis and size is None]


def read_prompts(x: Input, values, lengths, metadata: dict) -> Rows:
    """Prompts, of a generator that is described so, as `Generator` reads them."""
    what, padding_id = f"The input '{x.name}'", metadata["padding_id"]
    return read_sequences(
        values,
        what,
        padding_id=padding_id,
        is_token=padding_id in metadata["end_tokens"] or padding_id == metadata["start_token"],
        is_hidden=metadata["hides_padding"],
        lengths=lengths,
        vocabulary_size=x.vocabulary_size,
    )


def read_input(x: Input, values) -> np.ndarray:
    """The values for an input as an array of its type.

    Raises:
        ValueError: If they are of another type or shape, or hold ids that there are not.
    """
    what = f"The input '{x.name}'"
    if x.dtype == "string":
        array = _read_strings(x, values, what)
    elif x.dtype is None:  # format 1: what the values are is all that is known
        array = np.asarray(values)
        if array.dtype.kind in "iu":
            check_range(array, what, None)
            array = array.astype(np.int32)
    elif x.dtype == "bool":
        array = _read_truth(values, what)
    elif "int" in x.dtype:
        array = _read_integers(x, values, what)
    else:
        array = _read_features(x, values, what)
    _check_shape(x, array.shape, what)
    return array


def _check_shape(x: Input, shape: tuple, what: str) -> None:
    expected = (None, None) if x.shape is None else x.shape
    fits = len(shape) == len(expected) or (x.shape is None and len(shape) > 1)
    if not fits or any(w not in (None, g) for w, g in zip(expected, shape, strict=False)):
        raise ValueError(f"{what} takes an array of shape {expected}, got shape {shape}.")


def pad_rows(x: Input, array: np.ndarray, room: tuple) -> np.ndarray:
    """Rows (B, ...) padded to the shape that a file has for them.

    Raises:
        ValueError: If they are longer, or shorter where padding would change the answer.
    """
    given = array.shape[1:]
    if any(size > most for size, most in zip(given, room, strict=True)):
        raise ValueError(
            f"The input '{x.name}' has rows of shape {given}; the file takes {room} at most. Export with a larger "
            "source_length."
        )
    if given != room and not x.padded:
        raise ValueError(
            f"The input '{x.name}' has rows of shape {given}; the file takes {room} and nothing shorter, since the "
            "model does not ignore padding there. Export with that source_length, or to a SavedModel."
        )
    sides = [(0, 0), *((0, most - size) for size, most in zip(given, room, strict=True))]
    return np.pad(array, sides, constant_values=x.padding_id or 0) if array.dtype.kind in "biuf" else array


def _read_integers(x: Input, values, what: str) -> np.ndarray:
    if x.vocabulary_size is None or len(x.shape) != 2:
        array = as_integers(values, what)
        check_range(array, what, x.vocabulary_size, bits=np.iinfo(x.dtype).bits)
        return array.astype(x.dtype)
    if isinstance(values, np.ndarray) and values.dtype != object:  # that may be one of lists
        _check_shape(x, values.shape, what)
    rows = read_rows(values, what, padding_id=x.padding_id, vocabulary_size=x.vocabulary_size, inner_padding=True)
    width = max((len(row) for row in values), default=0) if x.shape[1] is None else x.shape[1]
    if x.padding_id is None and (rows.lengths < width).any():
        raise ValueError(
            f"{what} has rows of {sorted(set(rows.lengths.tolist()))} ids, and there no id stands for padding: give "
            f"rows of one length{'' if x.shape[1] is None else f', {width}'}."
        )
    missing = max(0, width - rows.ids.shape[1])
    return np.pad(rows.ids, ((0, 0), (0, missing)), constant_values=x.padding_id or 0).astype(x.dtype)


def _read_features(x: Input, values, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "V" else array  # bfloat16
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{what} takes numbers in a regular shape: {error}.") from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} takes {x.dtype}, got {array.dtype}.")
    if x.vocabulary_size is not None:
        if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
            raise ValueError(f"{what} takes ids, got numbers that are not whole.")
        check_range(array, what, x.vocabulary_size)
    return array.astype(x.dtype)


def _read_truth(values, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{what} takes truth values in a regular shape: {error}.") from error
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{what} takes truth values, or 0 and 1, got {array.dtype} of shape {array.shape}.")
    return array.astype(bool)


def _read_strings(x: Input, values, what: str) -> np.ndarray:
    array = np.asarray(values, object)
    if not all(isinstance(text, str | bytes) for text in array.ravel()):
        raise ValueError(f"{what} takes strings, got {np.asarray(values).dtype}.")
    return array[:, None] if array.ndim == 1 and x.shape[1:] in ((1,), (None,)) else array
