"""Whether two runs of the same calculation gave the same, but for the rounding of its type."""

import keras
import numpy as np
from keras import ops

from keras_transformer._keras import layers_within

FLOAT, HALF = 3e-3, 0.1  # how far two results may be apart, relative to what is usual among them
BLOCK = 2**18  # entries that are compared at once
NOISE = 1e-5  # what is left where large numbers cancel


def as_array(tensor) -> np.ndarray:
    """A tensor as NumPy has it, half precision as float32."""
    array = ops.convert_to_numpy(tensor)
    return array.astype("float32") if array.dtype.name in ("float16", "bfloat16") else array


def precision(operations) -> float:
    """How far two results of these operations may be apart: some may calculate in half precision."""
    layers = [x for x in operations if isinstance(x, keras.layers.Layer)]
    layers += [x for layer in layers for x in layers_within(layer)]
    return HALF if any(x.compute_dtype in ("float16", "bfloat16") for x in layers) else FLOAT


def agree(one: np.ndarray, other: np.ndarray, relative: float) -> bool:
    """Whether arrays (B, T, ...) are equal, to the precision of floats.

    An entry may be off by a part of itself and of what is usual at its position: few or many huge entries (-1e9, as a
    mask) hide nothing that the others say. Where one is not finite, the other is so, too.
    """
    if one.shape != other.shape:
        return False
    if not np.issubdtype(one.dtype, np.floating):
        return bool(np.array_equal(one, other))
    if not one.size:
        return True
    width = max(1, int(np.prod(one.shape[2:], dtype=int)))
    one, other = one.reshape(-1, width), other.reshape(-1, width)
    count = max(1, BLOCK // width)
    return all(
        _rows_agree(one[start : start + count], other[start : start + count], relative)
        for start in range(0, len(one), count)
    )


def _rows_agree(one: np.ndarray, other: np.ndarray, relative: float) -> bool:
    one, other = one.astype("float64"), other.astype("float64")
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return False
    one, other = np.where(finite, one, 0.0), np.where(finite, other, 0.0)
    bound = relative * (np.abs(one) + _usual(one)) + NOISE
    return bool((np.abs(one - other) <= bound).all())


def _usual(rows: np.ndarray) -> np.ndarray:
    """The root mean square (R, 1) of the entries of each row that are not huge beside its small ones, or, where a row
    says nothing, a part of that of all rows."""
    sizes = np.abs(rows)
    small = np.where(sizes > 0, sizes, np.inf)
    places = np.minimum((sizes > 0).sum(axis=1, keepdims=True) // 100, sizes.shape[1] - 1)
    small.partition(np.unique(places), axis=1)
    low = np.take_along_axis(small, places, axis=1)  # one in a hundred is smaller
    usual = (sizes > 0) & (sizes <= 1e3 * low)
    squares = np.where(usual, sizes, 0.0) ** 2
    counts = usual.sum(axis=1, keepdims=True)
    whole = np.sqrt(squares.sum() / max(1, counts.sum()))
    return np.maximum(np.sqrt(squares.sum(axis=1, keepdims=True) / np.maximum(counts, 1)), 1e-3 * whole)
