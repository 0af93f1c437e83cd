"""An encoder-decoder of every kind generates, with a cache, what the full model says, token for token."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

SOURCES = np.array([[5, 9, 4, 22, 16, 1, 7], [8, 3, 0, 0, 0, 0, 0], [6, 6, 17, 2, 12, 0, 0]])
PREFIXES = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])
START = np.full((3, 1), 2)

KINDS = {
    "modern": {
        "position": kt.RotaryPosition,
        "num_kv_heads": 2,
        "head_dim": 6,
        "normalize_first": True,
        "norm": "rms",
        "gated": True,
        "qk_norm": True,
        "soft_cap": 3.0,
        "use_bias": False,
        "window": 3,
    },
    "ALiBi, multi-query": {"position": kt.AlibiPosition, "num_kv_heads": 1},
}


def transformer(roughen, seed=0, **options):
    model = kt.models.transformer(23, 29, num_layers=1, dim=20, num_heads=4, intermediate_dim=13, **options)
    return roughen(model, seed)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.long] * (kind == "modern")) for kind in KINDS])
def test_kinds_with_forced_prefixes_and_padded_sources(kind, roughen, assert_decodes_exactly):
    model = transformer(roughen, **KINDS[kind])
    assert_decodes_exactly(model, SOURCES, PREFIXES, inputs=lambda tokens: [SOURCES, tokens])


@pytest.mark.xla
def test_from_the_start_token(roughen, assert_decodes_exactly):
    model = transformer(roughen, seed=16)
    assert_decodes_exactly(
        model, SOURCES, START, inputs=lambda tokens: [SOURCES, tokens], caches=(True, False), start_token=2
    )


@pytest.mark.long
def test_relative_positions_shared_by_each_stack(roughen, assert_decodes_exactly):
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embedding = kt.TokenEmbedding(29, 20)  # of both sides: one vocabulary
    encoder_position, decoder_position = kt.RelativePosition(8, 16), kt.RelativePosition(8, 16)
    x, y = embedding(source), embedding(target)
    for _ in range(2):
        x = kt.EncoderLayer(4, 13, position=encoder_position)(x)
    for _ in range(2):
        y = kt.DecoderLayer(4, 13, position=decoder_position)(y, x)
    model = roughen(keras.Model([source, target], embedding(y, reverse=True)))
    assert_decodes_exactly(model, SOURCES, PREFIXES, inputs=lambda tokens: [SOURCES, tokens])


@pytest.mark.long
@pytest.mark.slow
def test_two_sources_with_the_target_between_them(roughen, assert_decodes_exactly):
    text = keras.Input((None,), dtype="int32", name="text")
    target = keras.Input((None,), dtype="int32", name="target")
    sound = keras.Input((None, 5), name="sound")
    read = kt.EncoderLayer(2, 13)(kt.PositionalEncoding()(kt.TokenEmbedding(23, 20)(text)))
    heard = kt.EncoderLayer(2, 13)(keras.layers.Dense(14)(sound))
    y = kt.PositionalEncoding()(kt.TokenEmbedding(29, 20)(target))
    y = kt.DecoderLayer(4, 13)(y, read)
    y = kt.DecoderLayer(4, 13)(y, heard)
    model = roughen(keras.Model([text, target, sound], keras.layers.Dense(29)(y)))
    sounds = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    assert_decodes_exactly(
        model,
        {"sound": sounds, "text": SOURCES},
        PREFIXES,
        inputs=lambda tokens: [SOURCES, tokens, sounds],
        target_input="target",
    )


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*padding mask was dropped")
def test_memory_that_reaches_the_decoder_without_attention(roughen, assert_decodes_exactly):
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory = kt.EncoderLayer(4, 13)(kt.TokenEmbedding(23, 20)(source))
    pooled = keras.layers.GlobalAveragePooling1D(keepdims=True)(memory)
    y = kt.PositionalEncoding()(kt.TokenEmbedding(29, 20)(target) + pooled)
    y = kt.DecoderLayer(4, 13)(y)
    y = keras.layers.Dense(20)(keras.layers.Flatten()(pooled))[:, None] * y
    model = roughen(keras.Model([source, target], keras.layers.Dense(29)(y)))
    assert_decodes_exactly(model, SOURCES, PREFIXES, inputs=lambda tokens: [SOURCES, tokens])
