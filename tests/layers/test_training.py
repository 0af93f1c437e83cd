"""Dropout is for training only, and gradients reach every weight."""

import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.layers.dropout import Dropout

from .helpers import CATALOGUE, DIM, HEAD_DIM, HEADS, INNER, MEMORY, VOCABULARY, X, as_numpy, build, weight_gradients

WITH_DROPOUT = ["FeedForward", "MultiHeadSelfAttention, all options", "MultiHeadCrossAttention, all options",
                "EncoderLayer", "EncoderLayer, all options", "DecoderLayer",
                "DecoderLayer, without memory"]  # fmt: skip


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_is_for_training_only(name, assert_close):
    layer, inputs = build(name)
    calm = as_numpy(layer(*inputs, training=False))
    assert_close(layer(*inputs), calm)
    first, second = (as_numpy(layer(*inputs, training=True)) for _ in range(2))
    assert np.abs(first - calm).max() > 0.01
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("block", [kt.EncoderLayer, kt.DecoderLayer])
def test_each_rate_is_used(block, rate):
    layer = block(HEADS, INNER, head_dim=HEAD_DIM, **{rate: 0.5})
    inputs = (X,) if block is kt.EncoderLayer else (X, MEMORY)
    difference = as_numpy(layer(*inputs, training=True)) - as_numpy(layer(*inputs))
    assert np.abs(difference).max() > 0.01


@pytest.mark.parametrize(
    "layer", [Dropout(0.0), kt.MultiHeadSelfAttention(HEADS, head_dim=HEAD_DIM)], ids=lambda x: type(x).__name__
)
def test_a_rate_that_comes_too_late_is_told(layer):
    layer(X)
    setattr(layer, "rate" if isinstance(layer, Dropout) else "dropout", 0.3)
    layer(X, training=False)
    with pytest.raises(ValueError, match=f"'{layer.name}' was made with a dropout rate of 0.* set to 0.3 later"):
        layer(X, training=True)


def test_without_rates_training_changes_nothing(assert_close):
    layer, inputs = build("DecoderLayer, all options")
    assert_close(layer(*inputs, training=True), layer(*inputs))


@pytest.mark.parametrize("name", CATALOGUE)
def test_gradients_reach_every_weight(name):
    layer, inputs = build(name)
    found = weight_gradients(layer, lambda: layer(*inputs, training=False))
    assert set(found) == {weight.path for weight in layer.weights if "seed" not in weight.path}
    for path, gradient in found.items():
        if path.endswith("output_bias"):  # for the way back
            assert gradient is None or not gradient.any()
            continue
        assert gradient is not None and np.abs(gradient).max() > 1e-6, path


def test_tied_weights_learn_from_both_ends():
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    ids = np.array([[2, 3]], "int32")
    layer(ids)
    (gradient,) = weight_gradients(layer, lambda: layer(layer(ids), reverse=True)).values()
    assert gradient.shape == (VOCABULARY, DIM) and gradient.any(axis=1).all()
