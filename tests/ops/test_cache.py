"""Writing a cache, by a scatter and in place, against plain indexing."""

import keras
import numpy as np
import pytest

from keras_transformer.ops.cache import empty, write
from keras_transformer.ops.runtime import for_converter, without_xla

B, G, C, K, T = 3, 2, 7, 5, 2


def oracle(cache, new, slots):
    cache = cache.copy()
    for row in range(B):
        for place in range(T):
            cache[row, :, slots[row, place]] = new[row, :, place]
    return cache


def tensors(seed):
    random = np.random.default_rng(seed)
    slots = np.stack([random.permutation(C)[:T] for _ in range(B)]).astype("int32")
    return random.normal(size=(B, G, C, K)).astype("float32"), random.normal(size=(B, G, T, K)).astype("float32"), slots


@pytest.mark.parametrize("seed", [0, 1])
def test_scatter(seed):
    cache, new, slots = tensors(seed)
    written = write(*map(keras.ops.convert_to_tensor, (cache, new, slots)))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(written), oracle(cache, new, slots))


@pytest.mark.tensorflow
def test_two_caches_in_a_graph_do_not_share_their_memory():
    """Nor does a second call find what the first one wrote."""
    import tensorflow as tf

    cache, new, slots = tensors(2)
    zeros = np.zeros_like(cache)

    @tf.function(autograph=False)
    @without_xla()
    def both(new, slots):
        first, second = (empty((tf.shape(new)[0], G, C, K), "float32") for _ in range(2))
        return write(first, new, slots), write(second, -new, (slots + 1) % C), empty((B, G, C, K), "float32")

    assert {"Empty", "InplaceUpdate"} <= {x.type for x in both.get_concrete_function(new, slots).graph.get_operations()}
    for values in (new, 2 * new):
        first, second, untouched = both(values, slots)
        np.testing.assert_array_equal(first, oracle(zeros, values, slots))
        np.testing.assert_array_equal(second, oracle(zeros, -values, (slots + 1) % C))
        np.testing.assert_array_equal(untouched, zeros)


@pytest.mark.tensorflow
def test_what_is_kept_is_not_overwritten():
    import tensorflow as tf

    cache, new, slots = tensors(3)

    @tf.function(autograph=False)
    @without_xla()
    def function(cache, new, slots):
        before = cache + 0.0
        after = write(before, new, slots, keep=True)
        with tf.control_dependencies([after]):
            return tf.identity(before), after

    before, after = function(cache, new, slots)
    np.testing.assert_array_equal(before, cache)
    np.testing.assert_array_equal(after, oracle(cache, new, slots))


@pytest.mark.tensorflow
def test_in_a_loop_nothing_is_copied():
    """The loop's first and last cache are one piece of memory: what the first was shows the last write."""
    import tensorflow as tf

    _, new, slots = tensors(4)

    @tf.function(autograph=False)
    @without_xla()
    def loop(new):
        first = empty((B, G, C, K), "float32")
        _, last = tf.while_loop(
            lambda i, cache: i < C,
            lambda i, cache: (i + 1, write(cache, new[:, :, :1] * tf.cast(i + 1, "float32"), tf.fill((B, 1), i))),
            (0, first),
        )
        with tf.control_dependencies([last]):
            return tf.identity(first), last

    first, last = loop(new)
    expected = new[:, :, :1] * np.arange(1, C + 1, dtype="float32")[:, None]
    np.testing.assert_allclose(last, expected, rtol=1e-6)
    np.testing.assert_array_equal(first, last)


@pytest.mark.tensorflow
@pytest.mark.parametrize("first", [0, 3, C - T])
def test_for_litert_a_run_is_a_slice(first):
    import tensorflow as tf

    cache, new, _ = tensors(5)
    cells = np.tile(first + np.arange(T, dtype="int32"), (B, 1))

    def operations(is_run, target):
        @tf.function(autograph=False)
        @for_converter(target)
        def function(cache, new, cells):
            return write(cache, new, cells, is_run=is_run)

        np.testing.assert_array_equal(function(cache, new, cells), oracle(cache, new, cells))
        return {x.type for x in function.get_concrete_function(cache, new, cells).graph.get_operations()}

    assert "XlaDynamicUpdateSlice" in operations(True, "litert")
    assert "XlaDynamicUpdateSlice" not in operations(False, "litert") | operations(True, "onnx")
