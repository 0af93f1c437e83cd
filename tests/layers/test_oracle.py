"""Every layer, with each of its options, equals the formulas of `oracle.py` in float64 NumPy."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from . import oracle
from .helpers import (
    BATCH,
    DIM,
    HEAD_DIM,
    HEADS,
    IDS,
    INNER,
    KEYS,
    LENGTH,
    MASK,
    MEMORY,
    MEMORY_DIM,
    MEMORY_MASK,
    POSITIONS,
    VOCABULARY,
    WIDE,
    X,
    as_numpy,
    randomize,
)

SEGMENTS = np.array([[1, 1, 1, 2, 2], [1, 2, 2, 3, 3], [1, 1, 1, 1, 1]], "int32")
MEMORY_SEGMENTS = np.array([[1, 1, 2, 2, 2, 2, 0], [3, 3, 2, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1, 2]], "int32")
ALLOWED = np.random.default_rng(4).random((BATCH, LENGTH, LENGTH)) < 0.7
MEMORY_ALLOWED = np.random.default_rng(5).random((BATCH, LENGTH, KEYS)) < 0.7


@pytest.fixture(autouse=True)
def sizes_are_distinct():
    assert len({BATCH, LENGTH, KEYS, HEADS, DIM, MEMORY_DIM, INNER, VOCABULARY, HEAD_DIM, WIDE}) == 10


# Embeddings


@pytest.mark.parametrize("output_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(("scale", "factor"), [(False, 1), (True, DIM**0.5), (0.3, 0.3), (1, 1)])
def test_token_embedding(scale, factor, output_bias, assert_close):
    layer = kt.TokenEmbedding(VOCABULARY, DIM, scale=scale, output_bias=output_bias)
    layer(IDS)
    randomize(layer)
    weights = oracle.weights_of(layer)
    assert len(weights) == 1 + output_bias
    table = weights["embeddings"]
    assert_close(layer(IDS), table[IDS] * factor)
    assert_close(layer(X, reverse=True), X.astype("float64") @ table.T + weights.get("output_bias", 0))


def test_token_embedding_starts_at_unit_logits():
    layer = kt.TokenEmbedding(997, 211)
    logits = as_numpy(layer(np.random.default_rng(1).normal(size=(1, 53, 211)).astype("float32"), reverse=True))
    assert 0.9 < logits.std() < 1.1


def test_padding_mask_starts_at_token_embedding():
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    np.testing.assert_array_equal(as_numpy(layer.compute_mask(IDS)), MASK)


@pytest.mark.parametrize("dim", [1, 8, DIM])
def test_positional_encoding(dim, assert_close):
    expected = X[..., :dim] + oracle.sinusoids(np.arange(LENGTH), dim, 50.0)
    assert_close(kt.PositionalEncoding(50.0)(X[..., :dim]), expected)
    halves = kt.PositionalEncoding.from_config(kt.PositionalEncoding(50.0, interleaved=False).get_config())
    encoding = oracle.sinusoids(np.arange(LENGTH), dim, 50.0)
    assert_close(halves(X[..., :dim]), X[..., :dim] + np.concatenate([encoding[:, ::2], encoding[:, 1::2]], axis=-1))
    later = kt.PositionalEncoding.from_config(kt.PositionalEncoding(50.0, offset=3).get_config())
    assert_close(later(X[..., :dim]), X[..., :dim] + oracle.sinusoids(np.arange(3, 3 + LENGTH), dim, 50.0))


@pytest.mark.parametrize(
    "layer",
    [kt.PositionalEncoding(), kt.LearnedPositionalEncoding(11), kt.LearnedPositionalEncoding(11, 2)],
    ids=lambda x: x.name,
)
def test_positions_of_the_caller(layer, assert_close):
    positions = np.array([[0, 1, 2, 0, 1], [10, 9, 8, 7, 6], [3, 3, 3, 3, 3]], "int32")
    encoding = as_numpy(layer(np.zeros((1, 11, DIM), "float32")))[0]
    assert_close(layer(X, positions=positions), X + encoding[positions])


@pytest.mark.parametrize("offset", [0, 2])
def test_learned_positional_encoding(offset, assert_close):
    layer = kt.LearnedPositionalEncoding(11, offset)
    output = layer(X)
    table = oracle.weights_of(layer)["embeddings"]
    assert table.shape == (11 + offset, DIM)
    assert_close(output, X + table[offset : LENGTH + offset])
    layer(np.zeros((1, 11, DIM), "float32"))
    with pytest.raises(ValueError, match="holds 11 positions"):
        layer(np.zeros((1, 12, DIM), "float32"))


NORMS = {
    "rms": lambda: kt.RMSNormalization(epsilon=1e-3),
    "rms with an offset": lambda: kt.RMSNormalization(epsilon=1e-3, offset=1.0),
    "layer": lambda: kt.LayerNormalization(epsilon=1e-2),
    "layer without beta": lambda: kt.LayerNormalization(center=False),
    "layer without gamma": lambda: kt.LayerNormalization(scale=False),
    "layer without weights": lambda: kt.LayerNormalization(center=False, scale=False),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("x", [X, X[0], X[:, None]], ids=["", "rank 2", "rank 4"])
def test_normalization(norm, x, assert_close):
    layer = NORMS[norm]()
    start = as_numpy(layer(x))
    weights = {name: np.ones(DIM) for name in ("scale", "gamma")} | {"beta": np.zeros(DIM)}
    assert_close(start, oracle.normalized(weights, x.astype("float64"), NORMS_AT_START.get(norm, layer), None))
    randomize(layer)
    assert len(layer.weights) == {"layer": 2, "layer without weights": 0}.get(norm, 1)
    assert_close(layer(x), oracle.normalized(oracle.weights_of(layer), x.astype("float64"), layer, None))


NORMS_AT_START = {"rms with an offset": kt.RMSNormalization(epsilon=1e-3)}  # whatever the offset is


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("norm", ["rms", "rms with an offset", "layer"])
def test_normalization_in_half_precision_is_computed_in_float32(norm, dtype):
    layer = NORMS[norm]().from_config({**NORMS[norm]().get_config(), "dtype": dtype})
    x = keras.ops.cast(X * 300, dtype.removeprefix("mixed_"))  # squares overflow float16
    layer(x)
    randomize(layer)
    expected = oracle.normalized(oracle.weights_of(layer), as_numpy(x).astype("float64"), layer, None)
    output = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == dtype.removeprefix("mixed_")
    np.testing.assert_allclose(as_numpy(output), expected, rtol=2**-8 if "bfloat16" in dtype else 2**-11, atol=1e-4)


# Feed-forward


@pytest.mark.parametrize("activation", list(oracle.ACTIVATIONS))
@pytest.mark.parametrize("gated", [False, True], ids=["", "gated"])
@pytest.mark.parametrize("use_bias", [True, False], ids=["", "no bias"])
def test_feed_forward(activation, gated, use_bias, assert_close):
    layer = kt.FeedForward(INNER, activation=activation, gated=gated, use_bias=use_bias)
    layer(X)
    randomize(layer)
    weights = oracle.weights_of(layer)
    assert len(weights) == (4 if use_bias else 2)
    assert_close(layer(X), oracle.feed_forward(weights, X, activation=activation, gated=gated))


@pytest.mark.parametrize("limit, offset", [(0.3, 1.0), (0.5, 0.0), (None, -0.7)])
def test_limits_of_a_gate(limit, offset, assert_close):
    layer = kt.FeedForward(INNER, activation="quick_gelu", gated=True, gate_limit=limit, gate_offset=offset)
    layer(X)
    randomize(layer)
    options = {"gate_offset": offset} if limit is None else {"gate_offset": offset, "gate_limit": limit}
    expected = oracle.feed_forward(oracle.weights_of(layer), X, activation="quick_gelu", gated=True, **options)
    assert_close(layer(X), expected)
    assert_close(layer(X, training=True), expected)


def test_class_token(assert_close):
    layer = kt.ClassToken(embeddings_initializer="normal")
    output, token = layer(X, mask=MASK), oracle.weights_of(layer)["embeddings"]
    assert_close(output, np.concatenate([np.repeat(token[None], BATCH, 0), X], axis=1))
    mask = as_numpy(layer.compute_mask(X, MASK))
    np.testing.assert_array_equal(mask, np.concatenate([np.ones((BATCH, 1), bool), MASK], axis=1))
    assert layer.compute_mask(X, None) is None


def test_feed_forward_takes_a_function_as_activation(assert_close):
    layer = kt.FeedForward(INNER, activation=lambda x: 2 * x)
    layer(X)
    weights = oracle.weights_of(layer)
    assert_close(
        layer(X), oracle.dense(oracle.below(weights, "outer"), 2 * oracle.dense(oracle.below(weights, "inner"), X))
    )


# Attention

OPTIONS = {
    "nothing": {},
    "num_kv_heads": {"num_heads": 6, "num_kv_heads": 2},
    "multi-query": {"num_heads": 3, "num_kv_heads": 1},
    "qk_norm": {"qk_norm": True},
    "a qk_norm": {"qk_norm": kt.LayerNormalization(epsilon=1e-2, center=False)},
    "qk_norm over heads": {"qk_norm": True, "qk_norm_over": "heads", "num_heads": 6, "num_kv_heads": 2},
    "a qk_norm over heads": {"qk_norm": kt.RMSNormalization(offset=1.0), "qk_norm_over": "heads"},
    "scale": {"scale": 0.7},
    "soft_cap": {"soft_cap": 0.5},
    "use_bias": {"use_bias": False},
    "qkv_bias": {"use_bias": False, "qkv_bias": True},
    "no qkv_bias": {"qkv_bias": False},
}
SELF_OPTIONS = {
    **OPTIONS,
    "sinks": {"sinks": True},
    "sinks, scale, grouped": {"sinks": True, "scale": 0.3, "num_heads": 6, "num_kv_heads": 2, "causal": True},
    "causal": {"causal": True},
    "window": {"window": 2},
    "causal window": {"causal": True, "window": 3},
}
SELF_MASKS = {
    "nothing": {},
    "mask": {"mask": MASK},
    "segment_ids": {"segment_ids": SEGMENTS},
    "attention_mask": {"attention_mask": ALLOWED},
    "all": {"mask": MASK, "segment_ids": SEGMENTS, "attention_mask": ALLOWED},
}


def attention_oracle(layer, options, *inputs, segment_ids=None, memory_segment_ids=None, **masks):
    """What the oracle makes of the same inputs. Of the padding masks it takes only that of the keys."""
    if len(inputs) == 2:
        masks["mask"] = masks.pop("memory_mask", None)
    segments = None
    if segment_ids is not None:
        segments = (segment_ids, segment_ids if memory_segment_ids is None else memory_segment_ids)
    inputs = [x.astype("float64") for x in inputs]
    return oracle.attention(oracle.weights_of(layer), *inputs, segments=segments, **masks, **options)


def check_self_attention(options, masks, assert_close):
    options = {"num_heads": HEADS, "head_dim": HEAD_DIM, **options}
    layer = kt.MultiHeadSelfAttention(**options)
    layer(X)
    randomize(layer)
    result = layer(X, return_attention_scores=True, **masks)
    assert_close(tuple(result), attention_oracle(layer, options, X, **masks))


@pytest.mark.parametrize("option", SELF_OPTIONS)
@pytest.mark.parametrize("masks", ["nothing", "all"])
def test_self_attention(option, masks, assert_close):
    check_self_attention(SELF_OPTIONS[option], SELF_MASKS[masks], assert_close)


@pytest.mark.parametrize("masks", SELF_MASKS)
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_self_attention_masks(masks, causal, assert_close):
    check_self_attention({"causal": causal}, SELF_MASKS[masks], assert_close)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_self_attention_positions(position, causal, assert_close):
    check_self_attention({"position": POSITIONS[position](), "causal": causal}, {"mask": MASK}, assert_close)


def test_attention_masks_of_each_rank_and_head(assert_close):
    layer = kt.MultiHeadSelfAttention(HEADS)
    x = np.random.default_rng(1).normal(size=(BATCH, LENGTH, WIDE)).astype("float32")
    layer(x)
    rank_3 = as_numpy(layer(x, attention_mask=ALLOWED))
    assert_close(layer(x, attention_mask=ALLOWED[:, None]), rank_3)
    assert_close(layer(x, attention_mask=ALLOWED[0])[0], rank_3[0])
    each_head = np.random.default_rng(2).random((BATCH, HEADS, LENGTH, LENGTH)) < 0.7
    _, scores = layer(x, attention_mask=each_head, return_attention_scores=True)
    assert not as_numpy(scores)[~each_head].any()


def test_heads_divide_the_width_by_default(assert_close):
    layer = kt.MultiHeadSelfAttention(HEADS)
    x = np.random.default_rng(1).normal(size=(BATCH, LENGTH, WIDE)).astype("float32")
    result = layer(x, return_attention_scores=True)
    assert_close(tuple(result), attention_oracle(layer, {"num_heads": HEADS}, x))


CROSS_MASKS = {
    "nothing": {},
    "all": {
        "memory_mask": MEMORY_MASK,
        "segment_ids": SEGMENTS,
        "memory_segment_ids": MEMORY_SEGMENTS,
        "attention_mask": MEMORY_ALLOWED,
    },
    "query mask": {"mask": MASK},  # says nothing about keys
    "memory_mask": {"memory_mask": MEMORY_MASK},
}


def check_cross_attention(options, masks, assert_close):
    options = {"num_heads": HEADS, "head_dim": HEAD_DIM, **options}
    layer = kt.MultiHeadCrossAttention(**options)
    layer(X, MEMORY)
    randomize(layer)
    result = layer(X, MEMORY, return_attention_scores=True, **masks)
    assert_close(tuple(result), attention_oracle(layer, options, X, MEMORY, **masks))


@pytest.mark.parametrize("option", OPTIONS)
def test_cross_attention(option, assert_close):
    check_cross_attention(OPTIONS[option], CROSS_MASKS["all"], assert_close)


@pytest.mark.parametrize("masks", CROSS_MASKS)
def test_cross_attention_masks(masks, assert_close):
    check_cross_attention({}, CROSS_MASKS[masks], assert_close)


# Encoder and decoder layers

BLOCK_OPTIONS = {
    "nothing": {},
    "normalize_first": {"normalize_first": True},
    "norm": {"norm": "rms"},
    "normalize_first, norm": {"normalize_first": True, "norm": "rms", "norm_epsilon": 1e-2},
    "norm_epsilon": {"norm_epsilon": 1e-1},
    "a norm": {"norm": kt.RMSNormalization(offset=1.0, epsilon=1e-2)},
    "both": {"norm_placement": "both", "norm": kt.LayerNormalization(center=False)},
    "branch": {"norm_placement": "branch", "norm": "rms"},
    "before": {"norm_placement": "before"},
    "activation": {"activation": "gelu"},
    "gated": {"activation": "silu", "gated": True},
    "use_bias": {"use_bias": False},
    "num_kv_heads": {"num_kv_heads": 1},
    "qk_norm": {"qk_norm": True},
    "soft_cap": {"soft_cap": 0.5},
    "window": {"window": 2},
    "rotary": {"position": "rotary"},
    "alibi": {"position": "alibi"},
    "relative": {"position": "relative"},
    "rates mean nothing outside of training": {"dropout": 0.5, "attention_dropout": 0.5},
    "all": {
        "normalize_first": True,
        "norm": "rms",
        "activation": "silu",
        "gated": True,
        "use_bias": False,
        "num_kv_heads": 1,
        "qk_norm": True,
        "soft_cap": 0.5,
        "window": 3,
        "position": "rotary interleaved",
    },
}
BLOCK_MASKS = {"mask": MASK, "segment_ids": SEGMENTS, "attention_mask": ALLOWED}
MEMORY_MASKS = {
    "memory_mask": MEMORY_MASK,
    "memory_segment_ids": MEMORY_SEGMENTS,
    "memory_attention_mask": MEMORY_ALLOWED,
}


def check_block(block, option, inputs, masks, causal, assert_close):
    options = BLOCK_OPTIONS[option] if isinstance(option, str) else option
    options = {"num_heads": HEADS, "head_dim": HEAD_DIM, **options}
    if "position" in options:
        options["position"] = POSITIONS[options["position"]]()
    layer = block(intermediate_dim=INNER, **options)
    layer(*inputs)
    randomize(layer)
    options = {name: value for name, value in options.items() if "dropout" not in name}
    result = tuple(layer(*inputs, return_attention_scores=True, **masks))
    weights, inputs = oracle.weights_of(layer), [x.astype("float64") for x in inputs]
    assert_close(result, oracle.block(weights, *inputs, causal=causal, **masks, **options), 2e-5)


@pytest.mark.parametrize("option", BLOCK_OPTIONS)
def test_encoder_layer(option, assert_close):
    check_block(kt.EncoderLayer, option, [X], BLOCK_MASKS, False, assert_close)


CHOICES = {
    "num_kv_heads": [None, 1],
    "qk_norm": [False, True, kt.LayerNormalization(), kt.RMSNormalization(offset=1.0)],
    "qk_norm_over": ["head", "heads"],
    "qkv_bias": [None, True, False],
    "scale": [None, 0.4],
    "sinks": [False, True],
    "soft_cap": [None, 0.5],
    "window": [None, 2],
    "position": list(POSITIONS),
    "use_bias": [True, False],
    "activation": ["relu", "gelu", "silu", "quick_gelu", "tanh_gelu"],
    "gated": [False, True],
    "norm": ["layer", "rms", kt.RMSNormalization(offset=0.5), kt.LayerNormalization(scale=False)],
    "norm_placement": ["after", "before", "both", "branch"],
    "parallel_norms": [None, None, 1, 2],
}


@pytest.mark.parametrize("seed", range(8))
def test_options_in_combination(seed, assert_close):
    random = np.random.default_rng(seed)
    for block, memory in ((kt.EncoderLayer, []), (kt.DecoderLayer, [MEMORY])):
        options = {name: choices[random.integers(len(choices))] for name, choices in CHOICES.items()}
        if memory or options["norm_placement"] != "before":
            del options["parallel_norms"]
        masks = {**BLOCK_MASKS, **(MEMORY_MASKS if memory else {})}
        check_block(block, options, [X, *memory], masks, block.causal, assert_close)


@pytest.mark.parametrize("option", BLOCK_OPTIONS)
def test_decoder_layer(option, assert_close):
    check_block(kt.DecoderLayer, option, [X, MEMORY], {**BLOCK_MASKS, **MEMORY_MASKS}, True, assert_close)


@pytest.mark.parametrize("option", ["nothing", "all"])
def test_decoder_layer_without_memory(option, assert_close):
    check_block(kt.DecoderLayer, option, [X], BLOCK_MASKS, True, assert_close)


@pytest.mark.parametrize("norms", [1, 2])
@pytest.mark.parametrize("block", [kt.EncoderLayer, kt.DecoderLayer])
def test_parallel_sublayers(block, norms, assert_close):
    check_block(block, {"parallel_norms": norms}, [X], BLOCK_MASKS, block.causal, assert_close)


@pytest.mark.parametrize("option", ["nothing", "all"])
def test_blocks_without_masks(option, assert_close):
    check_block(kt.EncoderLayer, option, [X], {}, False, assert_close)
    check_block(kt.DecoderLayer, option, [X, MEMORY], {}, True, assert_close)
