"""A decoder-only model of every kind generates, with a cache, what the full model says, token for token."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer import layers

POSITIONS = {
    "none": lambda: {},
    "rotary": lambda: {"position": kt.RotaryPosition()},
    "rotary, interleaved": lambda: {"position": kt.RotaryPosition(interleaved=True)},
    "rotary, partial": lambda: {"position": kt.RotaryPosition(frequencies=[0.7, 0.1], magnitude=1.2)},
    "ALiBi": lambda: {"position": kt.AlibiPosition()},
    "relative": lambda: {"position": kt.RelativePosition(8, 16)},
}
ENCODINGS = {
    "sinusoidal": lambda: kt.PositionalEncoding(),
    "learned": lambda: kt.LearnedPositionalEncoding(11),
    "learned, from the third row on": lambda: kt.LearnedPositionalEncoding(11, 2),
}
OPTIONS = {
    "grouped-query, window": {"num_kv_heads": 2, "window": 3},
    "multi-query, normalized queries and keys": {"num_kv_heads": 1, "qk_norm": True},
    "soft cap, pre-norm": {"soft_cap": 1.5, "normalize_first": True},
    "RMS norm, gated, no bias": {"norm": "rms", "gated": True, "activation": "silu", "use_bias": False},
    "norms before and after, sinks, scale": {
        "norm_placement": "both",
        "norm": kt.RMSNormalization(offset=1.0),
        "sinks": True,
        "scale": 0.7,
        "num_kv_heads": 2,
        "window": 3,
    },
    "norms in the branch, normalized over heads": {
        "norm_placement": "branch",
        "norm": kt.LayerNormalization(center=False),
        "qk_norm": kt.LayerNormalization(),
        "qk_norm_over": "heads",
        "num_kv_heads": 2,
    },
    "parallel": {"parallel_norms": 2, "qkv_bias": False},
    "head width, dropout": {"head_dim": 7, "dropout": 0.5, "attention_dropout": 0.5},
}


def block(**options):
    return kt.DecoderLayer(4, 13, **{"head_dim": 6, **options})


@pytest.mark.parametrize("kind", POSITIONS)
def test_position_inside_attention(kind, language_model, assert_decodes_exactly):
    assert_decodes_exactly(language_model(block(**POSITIONS[kind]())))


def test_every_position_of_the_package_is_here():
    positions = {options()["position"] for options in POSITIONS.values() if options()}
    classes = [getattr(layers, name) for name in layers.__all__]
    public = {x for x in classes if issubclass(x, kt.AttentionPosition)} - {kt.AttentionPosition}
    assert {type(position) for position in positions} == public, "a position is missing in POSITIONS of this file"


@pytest.mark.parametrize("kind", ENCODINGS)
def test_position_added_to_the_embedding(kind, language_model, assert_decodes_exactly):
    assert_decodes_exactly(language_model(block(), encoding=ENCODINGS[kind]()))


def test_relative_position_shared_by_layers(language_model, assert_decodes_exactly):
    position = kt.RelativePosition(8, 16)
    assert_decodes_exactly(language_model(block(position=position), block(position=position)))


@pytest.mark.parametrize("kind", OPTIONS)
def test_option(kind, language_model, assert_decodes_exactly):
    model = language_model(block(**OPTIONS[kind]), encoding=kt.PositionalEncoding())
    assert_decodes_exactly(model)


@pytest.mark.xla
def test_everything_modern_at_once(language_model, assert_decodes_exactly):
    def modern(**options):
        return block(
            position=kt.RotaryPosition(),
            num_kv_heads=2,
            normalize_first=True,
            norm="rms",
            gated=True,
            qk_norm=True,
            use_bias=False,
            **options,
        )

    model = language_model(modern(window=3), modern(), kt.RMSNormalization(), tied=True)
    assert_decodes_exactly(model, caches=(True, False))


def test_probabilities_instead_of_logits(language_model, assert_decodes_exactly):
    model = language_model(block(), keras.layers.Dense(29, "softmax", name="probabilities"))
    model = keras.Model(model.input, model.get_layer("probabilities").output)
    assert_decodes_exactly(model, from_logits=False, caches=(True, False))


def test_layers_without_a_block_or_a_mask_and_prompts_of_equal_length(roughen, assert_decodes_exactly):
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(29, 20)(tokens)
    x = x + kt.MultiHeadSelfAttention(4, causal=True, position=kt.RotaryPosition(), head_dim=6)(x)
    x = x + kt.FeedForward(13)(x)
    model = roughen(keras.Model(tokens, keras.layers.Dense(29)(x)))
    assert_decodes_exactly(model, prompts=np.array([[2, 5, 4], [7, 1, 8], [1, 1, 1]]))
