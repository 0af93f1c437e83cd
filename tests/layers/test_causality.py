"""What may influence what: the exact gradient of each output position with respect to each input position."""

import numpy as np
import pytest

import keras_transformer as kt

from .helpers import (
    BATCH,
    DIM,
    HEAD_DIM,
    HEADS,
    INNER,
    KEYS,
    LENGTH,
    MASK,
    MEMORY,
    MEMORY_MASK,
    POSITIONS,
    X,
    as_numpy,
    gradients,
    influence,
    randomize,
)
from .oracle import allowed_pairs

ITSELF = np.eye(LENGTH, dtype=bool)


def made(layer, *inputs):
    layer(*inputs)
    randomize(layer)
    return layer


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", ""])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_self_attention_sees_what_it_may_and_all_of_it(position, causal, window):
    layer = kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, causal=causal, window=window, position=POSITIONS[position]())
    seen = influence(made(layer, X), X)
    np.testing.assert_array_equal(seen, allowed_pairs(BATCH, LENGTH, LENGTH, causal=causal, window=window))


@pytest.mark.parametrize("option", [{"num_kv_heads": 1}, {"qk_norm": True}, {"soft_cap": 2.0}], ids=lambda o: [*o][0])
def test_self_attention_is_causal_with_every_option(option):
    layer = kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, causal=True, **option)
    np.testing.assert_array_equal(influence(made(layer, X), X), allowed_pairs(BATCH, LENGTH, LENGTH, causal=True))


@pytest.mark.parametrize("normalize_first", [False, True])
def test_decoder_layer_is_causal(normalize_first):
    layer = made(kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM, normalize_first=normalize_first), X, MEMORY)
    seen = influence(lambda x: layer(x, MEMORY), X)
    np.testing.assert_array_equal(seen, allowed_pairs(BATCH, LENGTH, LENGTH, causal=True))


def test_decoder_layer_without_memory_is_causal():
    layer = made(kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM), X)
    np.testing.assert_array_equal(influence(layer, X), allowed_pairs(BATCH, LENGTH, LENGTH, causal=True))


def test_decoder_layer_sees_the_whole_memory():
    layer = made(kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM), X, MEMORY)
    assert influence(lambda memory: layer(X, memory), MEMORY).all()
    seen = influence(lambda memory: layer(X, memory, memory_mask=MEMORY_MASK), MEMORY)
    np.testing.assert_array_equal(seen, allowed_pairs(BATCH, LENGTH, KEYS, mask=MEMORY_MASK))


def test_encoder_layer_sees_all_that_is_no_padding():
    layer = made(kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM), X)
    seen = influence(lambda x: layer(x, mask=MASK), X)
    np.testing.assert_array_equal(seen, allowed_pairs(BATCH, LENGTH, LENGTH, mask=MASK) | ITSELF)


@pytest.mark.parametrize("block", [kt.EncoderLayer, kt.DecoderLayer])
def test_windows_of_two_layers_add_up(block):
    first, second = (made(block(HEADS, INNER, head_dim=HEAD_DIM, window=2), X) for _ in range(2))
    seen = influence(lambda x: second(first(x)), X)
    causal = block is kt.DecoderLayer
    np.testing.assert_array_equal(seen, allowed_pairs(BATCH, LENGTH, LENGTH, causal=causal, window=3))


@pytest.mark.parametrize("layer", [kt.FeedForward(INNER), kt.RMSNormalization(), kt.PositionalEncoding()],
                         ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_position_wise_layers_mix_no_positions(layer):
    seen = influence(made(layer, X), X)
    np.testing.assert_array_equal(seen, np.broadcast_to(ITSELF, seen.shape))


def test_rows_of_a_batch_do_not_mix():
    layer = made(kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM), X, MEMORY)
    cotangent = np.zeros((BATCH, LENGTH, DIM), "float32")
    cotangent[1] = np.random.default_rng(1).normal(size=(LENGTH, DIM))
    ((of_x, of_memory),) = gradients(layer, X, MEMORY, cotangents=[cotangent])
    for gradient in (of_x, of_memory):
        assert [row.any() for row in gradient] == [False, True, False]


def test_a_row_with_nothing_to_attend_to_gets_no_attention_and_finite_gradients():
    layer = made(kt.MultiHeadCrossAttention(HEADS, HEAD_DIM, use_bias=False), X, MEMORY)
    nothing = MEMORY_MASK & np.array([[True], [False], [True]])
    output = as_numpy(layer(X, MEMORY, memory_mask=nothing))
    assert (output[1] == 0).all() and (output[[0, 2]] != 0).all()
    ((of_x, of_memory),) = gradients(
        lambda x, memory: layer(x, memory, memory_mask=nothing), X, MEMORY, cotangents=[np.ones_like(X)]
    )
    assert np.isfinite(of_x).all() and np.isfinite(of_memory).all()
    assert not of_x[1].any() and not of_memory[1].any()
