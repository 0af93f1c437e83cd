"""`dot_product_attention` against the formula in float64 NumPy, at the edges of half precision, and its dropout."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.ops import additive_attention, dot_product_attention

BATCH, LENGTH, KEYS, WIDTH, VALUE_WIDTH = 2, 5, 7, 11, 13


def oracle(query, key, value, mask=True, bias=0.0, scale=None, soft_cap=None):
    """softmax(Q K^T scale + bias) V, one head and one query at a time; zeros where nothing is allowed."""
    batch, length, heads, width = query.shape
    keys, groups = key.shape[1:3]
    mask = np.broadcast_to(mask, (batch, heads, length, keys))
    bias = np.broadcast_to(bias, (batch, heads, length, keys))
    output = np.zeros((batch, length, heads, value.shape[3]))
    weights = np.zeros((batch, heads, length, keys))
    for b, h, t in np.ndindex(batch, heads, length):
        group = h // (heads // groups)
        score = key[b, :, group] @ query[b, t, h] * (width**-0.5 if scale is None else scale)
        if soft_cap is not None:
            score = soft_cap * np.tanh(score / soft_cap)
        allowed = mask[b, h, t]
        if allowed.any():
            exponential = np.exp(score + bias[b, h, t] - (score + bias[b, h, t])[allowed].max()) * allowed
            weights[b, h, t] = exponential / exponential.sum()
        output[b, t, h] = weights[b, h, t] @ value[b, :, group]
    return output, weights


def make(heads=3, groups=3, size=1.0, dtype="float64", seed=1):
    """Query (2, 5, H, 11), key (2, 7, G, 11) and value (2, 7, G, 13)."""
    random = np.random.default_rng(seed)
    shapes = (BATCH, LENGTH, heads, WIDTH), (BATCH, KEYS, groups, WIDTH), (BATCH, KEYS, groups, VALUE_WIDTH)
    return [(size * random.normal(size=shape)).astype(dtype) for shape in shapes]


def float32(arrays):
    return [array.astype("float32") for array in arrays]


MASKS = {
    "of everything": (BATCH, 3, LENGTH, KEYS),
    "for all heads": (BATCH, 1, LENGTH, KEYS),
    "for all queries": (BATCH, 1, 1, KEYS),
    "for all keys": (BATCH, 3, LENGTH, 1),
    "for all rows": (1, 1, LENGTH, KEYS),
    "rank 2": (LENGTH, KEYS),
}


@pytest.mark.parametrize("kind", [None, *MASKS])
@pytest.mark.parametrize("groups", [3, 1])
def test_masks(kind, groups, assert_close):
    inputs = make(groups=groups)
    mask = True if kind is None else np.random.default_rng(2).random(MASKS[kind]) < 0.5
    result = dot_product_attention(*float32(inputs), mask=None if kind is None else mask, return_scores=True)
    assert_close(tuple(result), oracle(*inputs, mask=mask))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": np.random.default_rng(3).normal(size=(BATCH, 3, LENGTH, KEYS))},
        {"bias": np.random.default_rng(3).normal(size=(1, 3, LENGTH, KEYS))},
        {"scale": 0.7},
        {"soft_cap": 0.5},
        {"soft_cap": 2.0, "scale": 1.3, "bias": np.random.default_rng(3).normal(size=(LENGTH, KEYS))},
    ],
    ids=["nothing", "bias", "bias of all rows", "scale", "soft cap", "all"],
)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_options(options, masked, assert_close):
    inputs = make()
    mask = np.random.default_rng(2).random((BATCH, 1, LENGTH, KEYS)) < 0.5 if masked else True
    result = dot_product_attention(*float32(inputs), mask=mask if masked else None, return_scores=True, **options)
    assert_close(tuple(result), oracle(*inputs, mask=mask, **options))


@pytest.mark.parametrize(("heads", "groups"), [(3, 3), (6, 3), (6, 2), (6, 1), (1, 1)])
def test_key_value_heads_are_shared_by_neighbouring_query_heads(heads, groups, assert_close):
    inputs = make(heads, groups)
    assert_close(tuple(dot_product_attention(*float32(inputs), return_scores=True)), oracle(*inputs))


def test_scores_are_returned_on_request_only():
    output = dot_product_attention(*make(dtype="float32"))
    assert tuple(output.shape) == (BATCH, LENGTH, 3, VALUE_WIDTH)


# Half precision

TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 4e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtype_of_the_value_comes_out_close_to_the_formula(dtype, assert_close):
    inputs = [keras.ops.cast(array, dtype) for array in make()]
    output, weights = dot_product_attention(*inputs, return_scores=True)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    expected = oracle(*(ops.convert_to_numpy(ops.cast(x, "float32")).astype("float64") for x in inputs))
    assert_close((output, weights), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1.0, 300.0, 1e4])
@pytest.mark.parametrize("soft_cap", [None, 30.0])
def test_fully_masked_rows_give_exactly_zero_and_all_is_finite(dtype, size, soft_cap):
    query, key, value = (ops.cast(array, dtype) for array in make(size=size))
    mask = np.random.default_rng(2).random((BATCH, 3, LENGTH, KEYS)) < 0.5
    mask[0, :, 2] = mask[1] = False
    output, weights = dot_product_attention(query, key, value, mask, soft_cap=soft_cap, return_scores=True)
    output, weights = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (output, weights))
    assert np.isfinite(output).all() and np.isfinite(weights).all()
    assert (output[1] == 0).all() and (output[0, 2] == 0).all() and (weights[~mask] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), mask.any(-1), atol=0.02)


@pytest.mark.parametrize("score", [1e3, 1e6, 1e12])
def test_a_forbidden_key_gets_nothing_however_high_its_score(score):
    query, key = np.ones((1, 1, 1, 1), "float32"), np.array([0.0, score, -score], "float32").reshape(1, 3, 1, 1)
    _, weights = dot_product_attention(query, key, key, np.array([True, False, False]), return_scores=True)
    assert ops.convert_to_numpy(weights).ravel().tolist() == [1, 0, 0]


# Dropout


def dropped_weights(rate, seed):
    """Attention weights behind the dropout (the values are unit vectors), and those before it."""
    query, key, _ = make(dtype="float32")
    value = np.broadcast_to(np.eye(KEYS, dtype="float32")[None, :, None], (BATCH, KEYS, 3, KEYS))
    output, weights = dot_product_attention(query, key, value, dropout=rate, seed=seed, return_scores=True)
    return ops.convert_to_numpy(ops.swapaxes(output, 1, 2)), ops.convert_to_numpy(weights)


def test_dropout_drops_at_the_rate_and_scales_the_rest():
    rate, draws = 0.3, 13
    kept = []
    for seed in range(draws):
        dropped, weights = dropped_weights(rate, seed)
        kept.append(dropped != 0)
        np.testing.assert_allclose(dropped[kept[-1]], (weights / (1 - rate))[kept[-1]], rtol=1e-5)
    deviation = (rate * (1 - rate) / np.size(kept)) ** 0.5
    assert abs(np.mean(kept) - (1 - rate)) < 4 * deviation


def test_dropout_leaves_the_returned_scores_alone(assert_close):
    assert_close(dropped_weights(0.5, 1)[1], dropped_weights(0.0, None)[1])


def test_dropout_is_determined_by_its_seed():
    first, again, other = (dropped_weights(0.5, seed)[0] for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_a_seed_generator_draws_anew_each_time():
    seed = keras.random.SeedGenerator(1)
    assert (dropped_weights(0.5, seed)[0] != dropped_weights(0.5, seed)[0]).any()


# Bad input


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_rank(name):
    inputs = dict(zip(("query", "key", "value"), make(), strict=True))
    inputs[name] = inputs[name][0]
    with pytest.raises(ValueError, match=rf"dot_product_attention takes {name} of shape .*got .*\d"):
        dot_product_attention(**inputs)


def test_heads_are_a_multiple_of_key_value_heads():
    with pytest.raises(ValueError, match="multiple of the 2 key/value heads.*got 3"):
        dot_product_attention(*make(3, 2))


def test_of_one_key_there_is_nothing_to_choose_and_no_warning(assert_close):
    query, value = np.ones((2, 3, 1, 5), "float32"), np.full((2, 1, 1, 5), 7.0, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, weights = dot_product_attention(query, query[:, :1], value, return_scores=True)
        masked = dot_product_attention(query, query[:, :1], value, mask=np.array([[[[True]]], [[[False]]]]))
        output_of_added, _ = additive_attention(
            query[:, :, 0], query[:, :1, 0], value[:, :, 0], np.ones((5, 1), "float32")
        )
    assert_close(output, np.full((2, 3, 1, 5), 7.0))
    assert_close(weights, np.ones((2, 1, 3, 1)))
    assert_close(masked, np.stack([np.full((3, 1, 5), 7.0), np.zeros((3, 1, 5))]))
    assert_close(output_of_added, np.full((2, 3, 5), 7.0))
    assert np.isnan(ops.convert_to_numpy(dot_product_attention(query * np.nan, query[:, :1], value))).all()
