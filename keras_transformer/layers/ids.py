"""Ids, positions and segments: integers that may come as floats, and the rows of a table that they name.

A model without `dtype="int32"` at its input gets its ids as floats. Those may be exact, so they are taken, but must not
be rounded on the way, as Keras does with floats under a mixed policy, and must not be fractions.
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.checks import describe
from keras_transformer.ops.runtime import concrete

# Up to where a float type holds every integer.
EXACT = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24, "float64": 2**53}


def check_ids(layer, ids, count: int, name: str = "ids") -> None:
    """Raise ValueError if ids are not integers in [0, count), where known: outside of compiled functions."""
    limit = EXACT.get(_dtype(ids))
    if limit is not None and count - 1 > limit:
        raise ValueError(
            f"{describe(layer)} takes {name} up to {count - 1} as integers, got {_dtype(ids)}, which holds integers "
            f"up to {limit} only, so that larger ones are rounded: make them int32 where they begin, as in "
            "keras.Input((None,), dtype='int32')."
        )
    values = concrete(ids)
    if values is None or not values.size:
        return
    _check_integers(layer, name, values)
    if values.min() < 0 or values.max() >= count:
        raise ValueError(
            f"{describe(layer)} takes {name} from 0 to {count - 1}, got {name} from {values.min()} to {values.max()}."
        )


def check_integers(layer, name: str, values) -> None:
    """Raise ValueError if floats are no integers, or may have been rounded to some, where their values are known."""
    known = concrete(values) if _dtype(values) in EXACT else None
    if known is None or not known.size:
        return
    _check_integers(layer, name, known)
    limit = EXACT[_dtype(values)]
    if np.abs(known.astype("float64")).max() > limit:
        raise ValueError(
            f"{describe(layer)} takes {name} as integers, got {_dtype(values)} beyond {limit}, up to where that type "
            "holds every integer, so that they may have been rounded. Give int32."
        )


def integers(layer, name: str, values):
    """Values as integers, before Keras rounds floats to the type that a layer computes in."""
    if _dtype(values) not in EXACT:
        return values
    check_integers(layer, name, values)
    return ops.cast(values, "int32")


def rows(look_up: Callable, ids, count: int):
    """What `look_up(ids)` gives, (..., D), of a table of `count` rows; NaN for what is not the number of a row.

    By themselves a graph takes the nearest row under XLA, zeros on a GPU, counts from the end on JAX, or fails.
    """
    dtype = _dtype(ids)
    if dtype in ("float16", "bfloat16"):
        ids = ops.cast(ids, "float32")
    elif dtype not in ("float32", "float64", "int64", "uint32", "uint64"):
        ids = ops.cast(ids, "int32")
    known = ops.logical_and(ids >= 0, ids < count)
    if dtype in EXACT:
        known = ops.logical_and(known, ops.equal(ids, ops.floor(ids)))
    found = look_up(ops.cast(ops.where(known, ids, ops.zeros_like(ids)), "int32"))
    return ops.where(ops.expand_dims(known, -1), found, ops.cast(float("nan"), found.dtype))


def _check_integers(layer, name: str, values: np.ndarray) -> None:
    if values.dtype.kind in "iub":
        return
    wrong = values[values != np.floor(values.astype("float64"))]
    if wrong.size:
        raise ValueError(f"{describe(layer)} takes {name} as integers, got {wrong.ravel()[0]}.")


def _dtype(values) -> str:
    if hasattr(values, "dtype"):
        return keras.backend.standardize_dtype(values.dtype)
    known = concrete(values)  # of Python numbers, which Keras would round without a word
    return "unknown" if known is None else known.dtype.name
