"""GELU with its gradient written out, against the formula in float64."""

import math
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.ops.activations import gelu, trained

from ..layers.helpers import gradients

X = np.concatenate([np.linspace(-9, 9, 41), [0.0, -30.0, 30.0]]).reshape(11, 4)
UPSTREAM = np.random.default_rng(0).normal(size=X.shape)


def exact(x):
    """GELU and its derivative."""
    distribution = np.vectorize(math.erf)(x / math.sqrt(2)) / 2 + 0.5
    return x * distribution, distribution + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def test_value_and_gradient_are_exact():
    value, derivative = exact(X)
    np.testing.assert_allclose(ops.convert_to_numpy(gelu(X.astype("float32"))), value, atol=1e-6)
    ((gradient,),) = gradients(gelu, X.astype("float32"), cotangents=[UPSTREAM.astype("float32")])
    np.testing.assert_allclose(gradient, derivative * UPSTREAM, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_gradient_of_half_precision_is_rounded_once(dtype):
    half = ops.cast(X.astype("float32"), dtype)
    rounded = ops.convert_to_numpy(ops.cast(half, "float32")).astype("float64")
    ((gradient,),) = gradients(
        lambda x: ops.cast(gelu(ops.cast(x, dtype)), "float32"),
        rounded.astype("float32"),
        cotangents=[np.ones(X.shape, "float32")],
    )
    np.testing.assert_allclose(gradient, exact(rounded)[1], atol=2e-3 if dtype == "float16" else 8e-3)


@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_network_computes_the_same_in_training_and_out_of_it(gated):
    layer = kt.FeedForward(13, activation="gelu", gated=gated)
    x = np.random.default_rng(1).normal(size=(2, 3, 5)).astype("float32")
    layer.build(x.shape)
    cotangents = [np.random.default_rng(2).normal(size=x.shape).astype("float32")]
    in_training, otherwise = (
        (
            ops.convert_to_numpy(layer(x, training=training)),
            *gradients(partial(layer, training=training), x, cotangents=cotangents)[0],
        )
        for training in (True, False)
    )
    for ours, theirs in zip(in_training, otherwise, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_other_activations_stay_what_they_are():
    assert trained(keras.activations.relu) is keras.activations.relu
    assert trained(kt.FeedForward(13, activation="gelu").activation) is (
        keras.activations.gelu if keras.backend.backend() == "torch" else gelu
    )
