"""How a cache is made and written: by a slice, by a scatter, or in place where a TensorFlow graph runs without XLA.

XLA performs a scatter in place, TensorFlow's own kernel copies the whole cache first, and LiteRT goes over it several
times. TensorFlow's in-place operations, `Empty` and `InplaceUpdate`, do not, but LiteRT and ONNX lack them, so they are
used only where `without_xla` says so. A cache that was written to in place is no longer what it was, so nothing may
read it after the write. A step of decoding does not: what it reads of a cache is what `write` returns, and the next
write waits for the tokens that follow from it.

LiteRT writes a slice without touching the rest (DYNAMIC_UPDATE_SLICE), where all rows write to the same run of cells.
Under XLA that is no faster than the scatter.
"""

from keras import ops

from keras_transformer.ops.runtime import is_for_converter, is_without_xla


def empty(shape: tuple, dtype: str):
    """A cache of zeros. In place, one that shares its memory with no other, as constants may."""
    if not is_without_xla():
        return ops.zeros(shape, dtype)
    import tensorflow as tf

    cache = tf.raw_ops.Empty(shape=tf.stack(shape), dtype=dtype, init=True)
    cache.set_shape([size if isinstance(size, int) else None for size in shape])
    return cache


def write(cache, new, cells, is_run: bool = False, keep: bool = False):
    """Write `new` (B, G, T, K) into `cache` (B, G, C, K) at `cells` (B, T) of each row.

    By a scatter, unless something better is at hand: of the ways to write that need no XLA op, it alone costs the same
    however long the cache is (benchmarks/decoding_choices.py).

    Args:
        cache, new, cells: What is written to, what, and where.
        is_run: Whether all rows write to the same cells, which follow one another and end before the cache does.
        keep: Whether `cache` is read again, so that it must not be overwritten.

    Example:

    >>> import numpy as np
    >>> new, cells = np.full((1, 1, 1, 2), 7.0, "float32"), np.array([[1]], "int32")
    >>> np.asarray(write(empty((1, 1, 3, 2), "float32"), new, cells)).tolist()
    [[[[0.0, 0.0], [7.0, 7.0], [0.0, 0.0]]]]
    """
    if is_run and is_for_converter("litert"):
        return ops.slice_update(cache, (0, 0, cells[0, 0], 0), new)
    batch, heads, _, width = ops.shape(new)
    rows = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1))
    columns = ops.reshape(ops.arange(heads, dtype="int32"), (1, -1, 1))
    cells = ops.expand_dims(cells, 1)  # (B, 1, T)
    if is_without_xla() and not keep:
        return _write_in_place(cache, new, (rows * heads + columns) * ops.shape(cache)[2] + cells)
    zero = ops.zeros_like(rows + columns + cells)
    indices = ops.stack([rows + zero, columns + zero, cells + zero], axis=-1)  # (B, G, T, 3)
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
