"""Random numbers from a hash of (seed, row, column): cheap, and bit-equal on every backend and runtime.

Integer multiplication that wraps, shifts and exclusive-or are all it takes, so it runs where there are no random
operations (LiteRT), and on the CPU it costs less than TensorFlow's generator (benchmarks/training_choices.py).
"""

import keras
import numpy as np
from keras import ops

from keras_transformer_runtime.seeds import fold_seed

# Multipliers of well-tested 32-bit hash functions (https://github.com/skeeto/hash-prospector).
_MIX = np.array([0x7FEB352D, 0x846CA68B, 0x2C1B3C6D, 0x297A2D39], "uint32").astype("int32")
_COLUMN_OFFSET = np.int32(0x3C6EF372)


def _mix(x):
    """A bijection of int32 in which each bit of the input changes each bit of the output with probability near 1/2."""
    x = ops.bitwise_xor(x, _shift(x, 16)) * _MIX[0]
    x = ops.bitwise_xor(x, _shift(x, 15)) * _MIX[1]
    return ops.bitwise_xor(x, _shift(x, 16))


def _shift(x, bits: int):
    """`x` shifted right, zeros moving in: Keras' own shift of a negative number moves ones in.

    Written without `ops.bitwise_and`, which LiteRT does not have.
    """
    return ops.right_shift(x, bits) - ops.right_shift(x, 31) * np.int32(2 ** (32 - bits))


def as_seed(seed):
    """A seed as an integer of 32 bits: an integer of any size, folded if it has more, a fresh one for None. A tensor
    comes back as it is.

    Fresh ones are drawn by Python's `random`, which `keras.utils.set_random_seed` sets.

    Raises:
        ValueError: If it is something else.

    Example:

    >>> as_seed(7), as_seed(-1), as_seed(2**32 - 1), as_seed(2**40) != as_seed(2**41)
    (7, -1, -1, True)
    """
    return seed if keras.ops.is_tensor(seed) else fold_seed(seed)


def random_bits(seed, rows, columns: int):
    """Uniformly distributed int32, a function of (seed, row, column) and nothing else.

    Args:
        seed: An integer, two integers, or a `keras.random.SeedGenerator`, which counts its calls.
        rows, columns: Numbers of rows and of columns; rows may be a tensor.

    Returns:
        (rows, columns), int32, over the whole range of the type. The upper bits are the better ones.

    Raises:
        ValueError: If the seed is something else. None is no seed: what is compiled would draw the same for ever.

    Example:

    >>> import numpy as np
    >>> np.array(random_bits(7, 2, 3)).tolist() == np.array(random_bits(7, 5, 4))[:2, :3].tolist()
    True
    """
    first, second = seed_pair(seed)
    return combine(ops.expand_dims(row_codes(first, rows), 1), column_codes(second, columns))


def seed_pair(seed):
    """The two int32 of a seed; a `keras.random.SeedGenerator` counts on."""
    pair = _pair(seed)
    return ops.cast(pair[0], "int32"), ops.cast(pair[1], "int32")


def _pair(seed):
    if isinstance(seed, keras.random.SeedGenerator):
        return seed.next()
    shape = np.shape(seed) if isinstance(seed, list | tuple) else getattr(seed, "shape", ())
    if tuple(shape) == (2,):
        return seed if ops.is_tensor(seed) else [as_seed(x) for x in seed]
    if seed is None or tuple(shape):
        raise ValueError(
            f"Dropout takes as seed an integer, two integers or a keras.random.SeedGenerator, got {seed!r}."
        )
    return as_seed(seed), 0


def row_codes(first, rows):
    """What `combine` takes of the rows 0 to `rows` - 1, (rows,), int32."""
    return _mix(ops.arange(rows, dtype="int32") + _mix(first))


def column_codes(second, columns):
    """What `combine` takes of the columns 0 to `columns` - 1, (columns,), int32."""
    return _mix(ops.arange(columns, dtype="int32") + _mix(second + _COLUMN_OFFSET))


def combine(rows, columns):
    """`random_bits` of rows and columns whose codes broadcast against each other, such as a block of them."""
    bits = ops.bitwise_xor(rows, columns) * _MIX[2]
    return ops.bitwise_xor(bits, ops.right_shift(bits, 13)) * _MIX[3]


def kept(bits, rate: float):
    """Which of the elements with these random bits are not dropped, bool."""
    return bits >= np.int32(-(2**31) + int(rate * 2**32))


def uniforms(seed, rows, step):
    """Uniformly distributed numbers in [0, 1), a function of (seed, row, step) and nothing else.

    Args:
        seed: Integer, or int32 tensor that broadcasts against the others.
        rows, step: int32 tensors that broadcast against each other.

    Returns:
        float32, multiples of 2^-24, exact on every backend.

    Example:

    >>> import numpy as np
    >>> np.array(uniforms(7, np.arange(3, dtype="int32"), np.int32(5)), "float64").round(2).tolist()
    [0.45, 0.21, 0.28]
    """
    seed = ops.cast(as_seed(seed), "int32")
    bits = _mix(ops.cast(step, "int32") + _mix(seed + _COLUMN_OFFSET))
    bits = ops.bitwise_xor(bits, _mix(ops.cast(rows, "int32") + _mix(seed))) * _MIX[2]
    bits = _mix(ops.bitwise_xor(bits, _shift(bits, 13)) * _MIX[3])
    return (ops.cast(ops.right_shift(bits, 8), "float32") + 2.0**23) * 2.0**-24


def dropout(x, rate: float, seed):
    """Set each element to 0 with probability `rate` and divide the others by 1 - rate.

    ("Dropout", https://jmlr.org/papers/v15/srivastava14a.html)

    Args:
        x: Float, of rank 2 or more, with a known last dimension or one that the graph tells.
        rate: In [0, 1).
        seed: As of `random_bits`.

    Returns:
        Of the shape and dtype of `x`.

    Example:

    >>> import numpy as np
    >>> dropped = np.array(dropout(np.ones((4, 1000)), 0.25, seed=7))
    >>> sorted(set(dropped.ravel().round(3).tolist())), bool(abs(dropped.mean() - 1) < 0.05)
    ([0.0, 1.333], True)
    """
    x = ops.convert_to_tensor(x)
    shape = ops.shape(x)
    rows = 1
    for size in shape[:-1]:
        rows = rows * size
    keep = ops.reshape(kept(random_bits(seed, rows, shape[-1]), rate), shape)
    return x * (ops.cast(keep, x.dtype) * ops.cast(1 / (1 - rate), x.dtype))
