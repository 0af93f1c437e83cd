"""A model that cannot be decoded token by token is refused, and the error names the layer and the remedy."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

PROMPTS = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])


def convolve(x):
    return x + keras.layers.Conv1D(20, 3, padding="causal", name="culprit")(x)


def recur(x):
    return keras.layers.LSTM(20, return_sequences=True, name="culprit")(x)


def attend_without_cache(x):
    return x + keras.layers.MultiHeadAttention(2, 7, name="culprit")(x, x, use_causal_mask=True)


def count_positions(x):
    ones = keras.ops.ones_like(x[:, :, 0], "int32")
    positions = keras.ops.cumsum(ones, axis=1) - 1
    return x + keras.layers.Embedding(11, 20)(positions)


def average(x):
    return x + keras.layers.GlobalAveragePooling1D(keepdims=True, name="culprit")(x)


def average_flat(x):
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return x + keras.layers.Reshape((1, 20))(pooled)


def encode(x):
    return kt.EncoderLayer(2, 13, name="culprit")(x)


def look_ahead(x):
    return x + kt.MultiHeadSelfAttention(2, name="culprit")(x)


CAUSAL = {
    "causal convolution": (convolve, "Conv1D 'culprit'"),
    "LSTM": (recur, "LSTM 'culprit'"),
    "attention of Keras": (attend_without_cache, "MultiHeadAttention 'culprit'"),
    "positions counted by hand": (count_positions, "Cumsum"),
}
NOT_CAUSAL = {
    "mean over time": (average, "GlobalAveragePooling1D 'culprit'"),
    "mean over time, flat": (average_flat, "GlobalAveragePooling1D 'pool'"),
    "encoder layer": (encode, "'culprit'|'self_attention'"),
    "attention to later tokens": (look_ahead, "'culprit'"),
}


def model_with(mix, roughen):
    tokens = keras.Input((None,), dtype="int32")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(29, 20)(tokens))
    x = mix(kt.DecoderLayer(2, 13)(x))
    return roughen(keras.Model(tokens, keras.layers.Dense(29)(x)))


@pytest.mark.parametrize("kind", [*CAUSAL, *NOT_CAUSAL])
def test_refused_with_the_name_and_the_remedy(kind, roughen):
    mix, culprit = {**CAUSAL, **NOT_CAUSAL}[kind]
    with pytest.raises(ValueError, match=culprit) as error:
        kt.Generator(model_with(mix, roughen), max_length=11, end_token=3)
    assert "cache=False" in str(error.value) or "causal=True" in str(error.value)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["causal convolution", "LSTM", "attention of Keras"])
def test_any_causal_model_generates_without_a_cache(kind, roughen, assert_decodes_exactly):
    assert_decodes_exactly(model_with(CAUSAL[kind][0], roughen), caches=(False,))


@pytest.mark.parametrize("kind", NOT_CAUSAL)
def test_without_a_cache_a_model_must_be_causal(kind, roughen):
    with pytest.raises(ValueError, match="not causal"):
        kt.Generator(model_with(NOT_CAUSAL[kind][0], roughen), max_length=11, end_token=3, cache=False)


def test_the_source_side_may_do_what_it_likes(roughen, assert_decodes_exactly):
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory = look_ahead(average_flat(keras.layers.Embedding(23, 20)(source)))
    y = kt.DecoderLayer(2, 13)(kt.PositionalEncoding()(kt.TokenEmbedding(29, 20)(target)), memory)
    model = roughen(keras.Model([source, target], keras.layers.Dense(29)(y)))
    sources = np.array([[5, 9, 4], [8, 3, 6], [6, 6, 17]])
    assert_decodes_exactly(model, sources, PROMPTS, inputs=lambda tokens: [sources, tokens])


@pytest.mark.parametrize("cache", [True, False])
def test_learned_positions_must_reach_max_length(cache, roughen):
    model = model_with(lambda x: kt.LearnedPositionalEncoding(7, name="table")(x), roughen)
    with pytest.raises(ValueError, match="LearnedPositionalEncoding 'table' holds 7 positions"):
        kt.Generator(model, max_length=11, end_token=3, cache=cache)


@pytest.mark.parametrize("name", ["segment_ids", "attention_mask"])
def test_what_the_cache_does_not_keep_is_refused(name, roughen):
    def mix(x):
        value = keras.ops.ones_like(x[:, :, 0], "int32")
        if name == "attention_mask":
            value = keras.ops.equal(keras.ops.expand_dims(value, 1), keras.ops.expand_dims(value, 2))
        return kt.DecoderLayer(2, 13)(x, **{name: value})

    with pytest.raises(ValueError, match=name):
        kt.Generator(model_with(mix, roughen), max_length=11, end_token=3)


@pytest.mark.parametrize("cache", [True, False])
def test_weights_that_are_not_numbers_are_called_that(cache, roughen):
    model = model_with(lambda x: x, roughen)
    model.layers[-1].kernel.assign(np.full((20, 29), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        kt.Generator(model, max_length=11, end_token=3, cache=cache)
