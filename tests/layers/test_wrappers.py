"""Every layer tells the shape of its output, and `TimeDistributed` runs it on each of several sequences."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import BATCH, CATALOGUE, DIM, HEAD_DIM, HEADS, INNER, MASK, VOCABULARY, X, as_numpy, build, randomize

PARTS = 2  # sequences side by side
OF_ONE_INPUT = [name for name in CATALOGUE if len(CATALOGUE[name]()[1]) == 1]
USE_MASKS = {
    "MultiHeadSelfAttention": lambda: kt.MultiHeadSelfAttention(HEADS, HEAD_DIM),
    "EncoderLayer": lambda: kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM),
    "DecoderLayer": lambda: kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM),
    "RecurrentDecoderLayer": lambda: kt.RecurrentDecoderLayer(DIM, "gru"),
    "MaskedPooling": lambda: kt.MaskedPooling("max"),
    "ReversibleNormalization": kt.ReversibleNormalization,
}


def side_by_side(x, seed=3):
    """(B, PARTS, ...): rows of `x`, in different orders."""
    random = np.random.default_rng(seed)
    return np.stack([x[random.permutation(BATCH)] for _ in range(PARTS)], axis=1)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("built", [True, False], ids=["built", "not built"])
def test_output_shape_is_what_comes_out(name, built):
    layer, inputs = CATALOGUE[name]()
    outputs = layer(*inputs)
    asked = layer if built else type(layer).from_config(layer.get_config())
    shapes = asked.compute_output_shape(*(x.shape for x in inputs))
    assert shapes == keras.tree.map_structure(lambda x: tuple(x.shape), outputs)
    assert asked.built == built


@pytest.mark.parametrize("name", OF_ONE_INPUT)
def test_time_distributed_is_one_sequence_after_another(name, assert_close):
    layer, (x,) = build(name)
    stacked = side_by_side(x)
    inputs = keras.Input(stacked.shape[1:], dtype=str(stacked.dtype))
    model = keras.Model(inputs, keras.layers.TimeDistributed(layer)(inputs))
    assert model.output_shape == (None, PARTS, *layer(x).shape[1:])
    expected = np.stack([as_numpy(layer(stacked[:, part])) for part in range(PARTS)], axis=1)
    assert_close(model(stacked), expected)


@pytest.mark.parametrize("name", USE_MASKS)
@pytest.mark.parametrize("of_tokens", [True, False], ids=["(B, S, T)", "(B, S)"])
def test_time_distributed_hands_masks_over(name, of_tokens, assert_close):
    """One mask of tokens, or one of whole sequences, as Keras carries it there."""
    layer = USE_MASKS[name]()
    layer(X)
    randomize(layer)
    x = side_by_side(X)
    mask = side_by_side(MASK, seed=4) if of_tokens else np.arange(BATCH * PARTS).reshape(BATCH, PARTS) % 3 > 0
    tokens = mask if of_tokens else np.repeat(mask[..., None], X.shape[1], axis=2)
    output = keras.layers.TimeDistributed(layer)(x, mask=mask)
    expected = np.stack([as_numpy(layer(x[:, part], mask=tokens[:, part])) for part in range(PARTS)], axis=1)
    assert_close(output, expected)


def test_time_distributed_of_an_embedding():
    ids = keras.Input((PARTS, None), dtype="int32")
    x = keras.layers.TimeDistributed(kt.TokenEmbedding(VOCABULARY, DIM))(ids)
    assert x.shape == (None, PARTS, None, DIM)
