"""How a cache is made and written: by a scatter, or in place where a TensorFlow graph runs without XLA.

XLA performs a scatter in place, TensorFlow's own kernel copies the whole cache first.
Its in-place operations, `Empty` and `InplaceUpdate`, do not, but LiteRT and ONNX lack them, so they are used only where
`without_xla` says so. A cache that was written to in place is no longer what it was, so nothing may read it after the
write. A step of decoding does not: what it reads of a cache is what `write` returns, and the next write waits for the
tokens that follow from it.
"""

from keras import ops

from keras_transformer.ops.runtime import is_without_xla


def empty(shape: tuple, dtype: str):
    """A cache of zeros. In place, one that shares its memory with no other, as constants may."""
    if not is_without_xla():
        return ops.zeros(shape, dtype)
    import tensorflow as tf

    cache = tf.raw_ops.Empty(shape=tf.stack(shape), dtype=dtype, init=True)
    cache.set_shape([size if isinstance(size, int) else None for size in shape])
    return cache


def write(cache, new, slots, keep: bool = False):
    """Write `new` (B, G, T, K) into `cache` (B, G, C, K) at `slots` (B, T) of each row.

    A scatter: of the ways to write that need no XLA op, it alone costs the same however long the cache is
    (benchmarks/decoding_choices.py).

    Args:
        cache, new, slots: What is written to, what, and where.
        keep: Whether `cache` is read again, so that it must not be overwritten.

    Example:

    >>> import numpy as np
    >>> new, slots = np.full((1, 1, 1, 2), 7.0, "float32"), np.array([[1]], "int32")
    >>> np.asarray(write(empty((1, 1, 3, 2), "float32"), new, slots)).tolist()
    [[[[0.0, 0.0], [7.0, 7.0], [0.0, 0.0]]]]
    """
    batch, heads, _, width = ops.shape(new)
    rows = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1))
    columns = ops.reshape(ops.arange(heads, dtype="int32"), (1, -1, 1))
    slots = ops.expand_dims(slots, 1)  # (B, 1, T)
    if is_without_xla() and not keep:
        return _write_in_place(cache, new, (rows * heads + columns) * ops.shape(cache)[2] + slots)
    zero = ops.zeros_like(rows + columns + slots)
    indices = ops.stack([rows + zero, columns + zero, slots + zero], axis=-1)  # (B, G, T, 3)
    return ops.scatter_update(cache, ops.reshape(indices, (-1, 3)), ops.reshape(new, (-1, width)))


def _write_in_place(cache, new, indices):
    """`indices` (B, G, T) count the cells (B G C) of the cache."""
    import tensorflow as tf

    shape, width = cache.shape, ops.shape(new)[3]
    cells = tf.reshape(cache, (-1, width))
    cells = tf.raw_ops.InplaceUpdate(x=cells, i=tf.reshape(indices, [-1]), v=tf.reshape(new, (-1, width)))
    written = tf.reshape(cells, tf.shape(cache))
    written.set_shape(shape)
    return written
