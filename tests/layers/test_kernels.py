"""The layers compute the same by every kernel, and the kernel is the one that was asked for."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.ops import blockwise, kernels
from keras_transformer.ops.runtime import for_converter

from .helpers import ATTENTION, LENGTH, MASK, MEMORY_MASK, X, as_numpy, build, weight_gradients

SEGMENTS = np.array([[1, 1, 1, 2, 2], [1, 2, 2, 3, 3], [1, 1, 1, 1, 1]], "int32")


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", 2)


def computed(layer, inputs, kernel, **options):
    """Output and gradients of a training step, always with the same seeds of dropout."""
    if not hasattr(layer, "first_state"):
        layer.first_state = [np.array(as_numpy(ops.convert_to_tensor(v))) for v in layer.non_trainable_variables]

    def call():
        return layer(*inputs, training=True, **options)

    results = []
    for function in (lambda: as_numpy(call()), lambda: weight_gradients(layer, call)):
        for variable, value in zip(layer.non_trainable_variables, layer.first_state, strict=True):
            variable.assign(value)
        with kt.ops.attention_kernel(kernel):
            results.append(function())
    return results


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=() if x.startswith("MultiHead") or x.endswith("all options") else pytest.mark.long)
        for x in ATTENTION
    ],
)
def test_blockwise_equals_exact(name, masked):
    layer, inputs = build(name)
    options = {}
    if masked:
        options = {"mask": MASK} | ({"memory_mask": MEMORY_MASK} if len(inputs) == 2 else {"segment_ids": SEGMENTS})

    (expected, expected_gradients), (output, gradients) = (
        computed(layer, inputs, kernel, **options) for kernel in ("exact", "blockwise")
    )

    np.testing.assert_allclose(output, expected, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[path], atol=1e-4, rtol=1e-4, err_msg=path)


def test_a_mask_of_ones_own():
    layer = kt.MultiHeadSelfAttention(1, 10)
    allowed = np.random.default_rng(3).random((len(X), LENGTH, LENGTH)) < 0.6
    expected = as_numpy(layer(X, attention_mask=allowed))
    with kt.ops.attention_kernel("blockwise"):
        np.testing.assert_allclose(as_numpy(layer(X, attention_mask=allowed)), expected, atol=1e-5)


def test_automatic_by_size(monkeypatch):
    used = []
    monkeypatch.setattr(kernels, "fused_device", lambda: None)
    for name in ("exact_attention", "blockwise_attention"):
        function = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *a, name=name, function=function, **k: used.append(name) or function(*a, **k)
        )
    layer = kt.MultiHeadSelfAttention(1, 10)
    layer(X)
    monkeypatch.setattr(kernels, "PAIRS", LENGTH * LENGTH)
    layer(X)
    _, scores = layer(X, return_attention_scores=True)  # which only exact attention has
    with for_converter("onnx"):
        layer(X)
    assert used == ["exact_attention", "blockwise_attention", "exact_attention", "exact_attention"]
    np.testing.assert_allclose(as_numpy(scores).sum(-1), 1, atol=1e-5)


def test_no_such_kernel():
    with pytest.raises(ValueError, match="'auto', 'exact', 'blockwise', 'fused', got 'flash'"):
        with kt.ops.attention_kernel("flash"):
            pass


def test_forced_where_it_cannot():
    layer = kt.MultiHeadSelfAttention(1, 10)
    with kt.ops.attention_kernel("blockwise"), pytest.raises(ValueError, match="the scores of all pairs are wanted"):
        layer(X, return_attention_scores=True)
    model = kt.models.language_model(vocabulary_size=11, num_layers=1, dim=8, num_heads=2)
    generator = kt.Generator(model, end_token=2, max_length=5, jit_compile=False)
    with kt.ops.attention_kernel("blockwise"):
        output = generator(np.array([[3, 4]]))  # decoding keeps to its own
    assert output["tokens"].shape == (1, 1, 5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has shapes that it does not know")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["EncoderLayer, all options", "MultiHeadCrossAttention, all options"])
def test_lengths_that_are_unknown(name, jit_compile):
    import tensorflow as tf

    layer, inputs = build(name)
    tensors = [tf.constant(x, "float32") for x in inputs]
    states = [np.array(v) for v in layer.non_trainable_variables]

    def gradients(*tensors):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(*tensors, training=True)))
        found = tape.gradient(loss, [v.value for v in layer.trainable_variables])
        return [tf.convert_to_tensor(x) for x in found]  # of the table of positions, slices

    def from_the_same_seeds(function):
        for variable, state in zip(layer.non_trainable_variables, states, strict=True):
            variable.assign(state)
        return function(*tensors)

    unknown = [tf.TensorSpec((None, None, x.shape[-1])) for x in tensors]
    expected = from_the_same_seeds(gradients)
    for kernel in ("blockwise", "auto"):
        compiled = tf.function(gradients, jit_compile=jit_compile, input_signature=unknown)
        with kt.ops.attention_kernel(kernel):
            values = from_the_same_seeds(compiled)
        for value, reference in zip(values, expected, strict=True):
            np.testing.assert_allclose(value, reference, atol=1e-4, rtol=1e-4)
