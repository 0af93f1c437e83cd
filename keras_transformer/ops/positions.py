"""Where a token stands: sinusoids, rotary embedding, ALiBi slopes and T5's relative buckets."""

import math
from collections.abc import Sequence

import numpy as np
from keras import ops


def _frequencies(count: int, dim: int, max_wavelength: float) -> np.ndarray:
    """max_wavelength^(-2 i / dim) for i < count."""
    return max_wavelength ** (-2.0 * np.arange(count) / dim)


def _angles(positions, frequencies):
    """Each position times each frequency, float32, (..., number of frequencies)."""
    return ops.expand_dims(ops.cast(positions, "float32"), -1) * ops.convert_to_tensor(
        np.asarray(frequencies, "float32")
    )


def sinusoids(positions, dim: int, max_wavelength: float = 10000.0, interleaved: bool = True):
    """Sinusoidal positional encoding ("Attention Is All You Need", section 3.5).

    PE[p, 2i] = sin(p / w^(2i / dim)), PE[p, 2i + 1] = cos(p / w^(2i / dim)), with w the `max_wavelength`.
    An odd `dim` ends on a sine.

    Args:
        positions: Int, any shape.
        dim: Width D of the encoding.
        max_wavelength: w, in positions over 2 pi.
        interleaved: Whether sines and cosines alternate, as in the paper, rather than all sines come first and all
            cosines behind them, as in Marian. An odd `dim` has one sine more.

    Returns:
        Float32, positions.shape + (D,).

    Example:

    >>> import numpy as np
    >>> np.asarray(sinusoids([0, 1], 3), "float64").round(3).tolist()
    [[0.0, 1.0, 0.0], [0.841, 0.54, 0.002]]
    """
    positions = ops.convert_to_tensor(positions)
    angles = _angles(positions, _frequencies((dim + 1) // 2, dim, max_wavelength))
    if not interleaved:
        return ops.concatenate([ops.sin(angles), ops.cos(angles[..., : dim // 2])], axis=-1)
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
    shape = ops.shape(positions)
    return ops.reshape(pairs, (*shape, dim + dim % 2))[..., :dim]  # interleave


def rotate(
    x,
    positions,
    max_wavelength: float = 10000.0,
    interleaved: bool = False,
    *,
    frequencies: Sequence[float] | None = None,
    magnitude: float = 1.0,
):
    """Rotary position embedding ("RoFormer", https://arxiv.org/abs/2104.09864, equation 34).

    Each pair (a, b) of the first R coordinates turns by its angle t = p f_i:
    (a, b) -> m (a cos t - b sin t, b cos t + a sin t), so that a product of two turned vectors depends on their
    distance only. The other coordinates stay as they are.

    Args:
        x: (B, H, T, K), float.
        positions: (1 or B, T), int.
        max_wavelength: w, in positions over 2 pi.
        interleaved: Whether pair i is (x[2i], x[2i + 1]), as in the paper and llama2.c, rather than
            (x[i], x[i + R / 2]), as in GPT-NeoX and Llama on Hugging Face.
        frequencies: f, R / 2 floats in radians per position. Default: f_i = w^(-2i / K), R = K.
        magnitude: m.

    Returns:
        Of the shape and dtype of `x`.

    Raises:
        ValueError: If K is odd and there are no frequencies, or there are more of them than pairs.

    Example:

    >>> import numpy as np
    >>> x = np.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    >>> np.asarray(rotate(x, np.array([[2]])), "float64").round(3).ravel().tolist()  # cos 2, sin 2
    [-0.416, 0.909]
    """
    x = ops.convert_to_tensor(x)
    width = x.shape[-1]
    if frequencies is None:
        if width % 2:
            raise ValueError(f"Rotary position embedding turns pairs and takes an even head width, got {width}.")
        frequencies = _frequencies(width // 2, width, max_wavelength)
    turned = 2 * len(frequencies)  # R
    if turned > width:
        raise ValueError(
            f"Rotary position embedding takes a frequency for each pair of coordinates, at most {width // 2} for heads "
            f"of width {width}, got {len(frequencies)}."
        )
    angles = ops.expand_dims(_angles(positions, frequencies), 1)  # (1|B, 1, T, R/2)
    cos, sin = ops.cos(angles), ops.sin(angles)
    if magnitude != 1:
        cos, sin = cos * magnitude, sin * magnitude
    cos, sin = ops.cast(cos, x.dtype), ops.cast(sin, x.dtype)
    if turned == width:
        return _turn(x, cos, sin, interleaved)
    return ops.concatenate([_turn(x[..., :turned], cos, sin, interleaved), x[..., turned:]], axis=-1)


def _turn(x, cos, sin, interleaved: bool):
    """All pairs of coordinates of x (B, H, T, R), each turned by the angle (1|B, 1, T, R/2) whose cosine it is."""
    if interleaved:
        pairs = ops.reshape(x, (*ops.shape(x)[:-1], x.shape[-1] // 2, 2))
        a, b = pairs[..., 0], pairs[..., 1]
        return ops.reshape(ops.stack([a * cos - b * sin, b * cos + a * sin], axis=-1), ops.shape(x))
    a, b = ops.split(x, 2, axis=-1)
    return ops.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Slope of each head's linear distance penalty ("Train Short, Test Long", https://arxiv.org/abs/2108.12409).

    The slopes are the geometric sequence 2^(-8/n), 2^(-16/n), ... for n heads. When n is not a power of two, the
    sequence for the next lower power is filled up with every other slope of the one above, as the authors do.

    Returns:
        Float32, (num_heads,).

    Example:

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4.0 / power * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([slopes, between[: num_heads - power]]).astype("float32")


def relative_buckets(relative_positions, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128):
    """Bucket of each relative position ("T5", https://arxiv.org/abs/1910.10683, section 2.1).

    Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`, and the last
    takes all that is beyond. With `bidirectional`, keys after the query have buckets of their own.

    Args:
        relative_positions: Int, any shape. Key position minus query position.
        bidirectional: Whether keys may lie after their query.
        num_buckets: How many buckets there are in all.
        max_distance: Distance in positions from which on all share one bucket.

    Returns:
        Int32, of the same shape, in [0, num_buckets).

    Example:

    >>> import numpy as np
    >>> np.array(relative_buckets([-200, -9, -1, 0, 3], bidirectional=True)).tolist()
    [15, 8, 1, 0, 19]
    """
    distance = -ops.cast(relative_positions, "int32")
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = ops.where(distance < 0, num_buckets, 0)
        distance = ops.abs(distance)
    distance = ops.maximum(distance, 0)
    exact = num_buckets // 2
    # The thresholds are counted exactly on the host: a logarithm rounds differently on every runtime.
    thresholds = [
        math.ceil(exact * (max_distance / exact) ** (i / (num_buckets - exact)) - 1e-9)
        for i in range(1, num_buckets - exact)
    ]
    bucket = ops.minimum(distance, exact)
    for threshold in thresholds:
        bucket = bucket + ops.cast(distance >= threshold, "int32")
    return ops.cast(bucket + offset, "int32")
