"""Integers give what the same numbers give in float: what is learned, a mean, and NaN are never cut off to integers."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import BATCH, CATALOGUE, DIM, LENGTH, MASK, as_numpy, build, weight_gradients

NAMES = [name for name in CATALOGUE if not name.startswith("TokenEmbedding")]


def counts(inputs, dtype="int32"):
    return [np.round(4 * x).astype(dtype) for x in inputs]


@pytest.mark.parametrize("name", NAMES)
def test_integers_are_the_same_numbers_in_float(name, assert_close):
    layer, inputs = build(name)
    integers, same = counts(inputs), counts(inputs, "float32")
    found = layer(*integers)
    assert_close(found, layer(*same), 1e-6)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    specs = [keras.KerasTensor(x.shape, x.dtype) for x in integers]
    assert layer.compute_output_spec(*specs).dtype == "float32"


@pytest.mark.parametrize("name", ["ClassToken", "RMSNormalization", "MixtureOfExperts, limited", "DotAttention"])
def test_gradients_are_those_of_floats(name, assert_close):
    layer, inputs = build(name)
    of_integers, of_floats = (
        weight_gradients(layer, lambda x=x: layer(*x)) for x in (counts(inputs), counts(inputs, "float32"))
    )
    for path, gradient in of_floats.items():
        assert np.abs(gradient).max() > 0
        assert_close(of_integers[path], gradient, 1e-5)


def test_the_vector_before_integers_is_whole():
    token = kt.ClassToken(embeddings_initializer=keras.initializers.Constant(0.5))
    np.testing.assert_array_equal(as_numpy(token(np.ones((1, 2, 3), "int32")))[0, :, 0], [0.5, 1.0, 1.0])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8"])
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_pooled_integers(mode, dtype):
    """Below zero and fractions, with a mask and without."""
    x = np.array([[[-6], [-3], [9]], [[1], [2], [4]]]) + (6 if dtype == "uint8" else 0)
    mask, layer = np.array([[1, 1, 0], [1, 1, 0]]), kt.MaskedPooling(mode)
    expected = getattr(x[:, :2], mode)(axis=1)
    for found in (layer(x.astype(dtype), mask=mask), layer(x[:, :2].astype(dtype))):
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        np.testing.assert_allclose(as_numpy(found), expected)


@pytest.mark.parametrize("name", ["ClassToken", "MaskedPooling", "PatchEmbedding", "ConvolutionalSubsampling",
                                  "MultiHeadSelfAttention", "EncoderLayer"])  # fmt: skip
def test_an_additive_mask_in_a_compiled_function_gives_nan(name, assert_close):
    layer, (x,) = build(name)
    (integers,) = counts([x])
    sequence, mask = keras.Input((LENGTH, DIM), dtype="int32"), keras.Input((LENGTH,))
    model = keras.Model([sequence, mask], layer(sequence, mask=mask))
    right = MASK.astype("float32")
    assert_close(model.predict([integers, right], verbose=0), layer(integers.astype("float32"), mask=MASK), 1e-5)
    if keras.backend.backend() != "torch":  # which runs eagerly, and refuses it
        assert np.isnan(model.predict([integers, np.where(MASK, 0.0, -1e9)], verbose=0)).all()


def test_the_mask_of_a_vector_before_a_sequence_has_its_length():
    layer, (x,) = build("ClassToken")
    found = layer.compute_mask(x, np.array([1, 0, 1]))  # of whole rows
    np.testing.assert_array_equal(as_numpy(found), [[1] + [real] * LENGTH for real in (1, 0, 1)])
    np.testing.assert_array_equal(as_numpy(layer.compute_mask(x, MASK))[:, 1:], MASK)
    for mask in (MASK[:, :3], MASK[:2], np.ones((BATCH, LENGTH, 1))):
        for call in (layer.compute_mask, lambda x, mask: layer(x, mask=mask)):
            with pytest.raises(ValueError, match=r"ClassToken 'class_token\w*' takes mask of shape \(batch, length\)"):
                call(x, mask)
