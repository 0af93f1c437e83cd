"""Layer normalization: the formula, and the gradient that is written out, against autodiff of Keras' own layer."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.ops import layer_normalization

WIDTH = 13


def test_formula_in_float64():
    random = np.random.default_rng(0)
    x, scale, offset = random.normal(size=(3, 5, WIDTH)) * 7 + 2, random.normal(size=WIDTH), random.normal(size=WIDTH)
    centered = x - x.mean(-1, keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-3) * scale + offset
    arguments = (ops.cast(value, "float32") for value in (x, scale, offset))
    np.testing.assert_allclose(ops.convert_to_numpy(layer_normalization(*arguments, 1e-3)), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, WIDTH), (3, 5, WIDTH), (2, 3, 5, WIDTH)])
def test_training_with_the_written_gradient_equals_training_with_keras_own(shape):
    """Two steps of gradient descent through a dense layer in front tell all three gradients."""
    random = np.random.default_rng(1)
    x = random.normal(size=shape).astype("float32")
    y = random.normal(size=shape).astype("float32")
    weights = []
    for layer_class in (LayerNormalization, keras.layers.LayerNormalization):
        keras.utils.set_random_seed(2)
        layers = [keras.layers.Dense(WIDTH), layer_class(epsilon=1e-4), keras.layers.Dense(WIDTH)]
        model = keras.Sequential([keras.Input(shape[1:]), *layers])
        model.compile(keras.optimizers.SGD(0.5), "mse")
        model.fit(x, y, epochs=2, batch_size=shape[0], verbose=0)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    x = np.random.default_rng(3).normal(size=(5, WIDTH)) * 300  # the squares overflow float16
    half = ops.cast(x, dtype)
    result = layer_normalization(half, ops.ones(WIDTH), ops.zeros(WIDTH), 1e-6)
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    expected = ops.convert_to_numpy(ops.cast(half, "float32"))
    expected = (expected - expected.mean(-1, keepdims=True)) / expected.std(-1, keepdims=True)
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(result, "float32")), expected, atol=0.02)
