"""`attention_mask`, all its restrictions and all their combinations, against a loop over its definition."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.compiling import compiled
from keras_transformer.ops import additive_attention, attention_mask, dot_product_attention

BATCH, HEADS, LENGTH, KEYS = 2, 3, 5, 7
SHAPES = {None: None, 2: (LENGTH, KEYS), 3: (BATCH, LENGTH, KEYS), 4: (BATCH, HEADS, LENGTH, KEYS)}
RANDOM = np.random.default_rng(1)
KEY_MASK = RANDOM.random((BATCH, KEYS)) < 0.7
QUERY_SEGMENTS, KEY_SEGMENTS = RANDOM.integers(0, 2, (BATCH, LENGTH)), RANDOM.integers(0, 2, (BATCH, KEYS))
OWN = {rank: None if shape is None else RANDOM.random(shape) < 0.7 for rank, shape in SHAPES.items()}


def oracle(query_positions, key_positions, causal, window, key_mask, query_segments, key_segments, mask):
    """Whether query t of head h in row b may attend to key s: one cell at a time."""
    allowed = np.ones((BATCH, HEADS, LENGTH, KEYS), bool)
    for b, h, t, s in np.ndindex(allowed.shape):
        distance = query_positions[b, t] - key_positions[b, s]
        allowed[b, h, t, s] = (
            not (causal and distance < 0)
            and not (window is not None and abs(distance) >= window)
            and (key_mask is None or key_mask[b, s])
            and (query_segments is None or query_segments[b, t] == key_segments[b, s])
            and (mask is None or mask[{2: (t, s), 3: (b, t, s), 4: (b, h, t, s)}[mask.ndim]])
        )
    return allowed


@pytest.mark.parametrize("own", SHAPES, ids=lambda rank: f"mask of rank {rank}" if rank else "no mask")
@pytest.mark.parametrize("positions", ["counting", "of each row"])
def test_every_combination(positions, own):
    # Queries start behind the first keys, as in decoding with a cache.
    query_positions, key_positions = np.arange(LENGTH)[None] + 2, np.arange(KEYS)[None]
    if positions == "of each row":
        query_positions = query_positions + np.array([[0], [-3]])
    everywhere = [np.broadcast_to(p, (BATCH, p.shape[1])) for p in (query_positions, key_positions)]
    for causal, window, padded, packed in itertools.product([False, True], [None, 1, 3], [False, True], [False, True]):
        options = {
            "causal": causal,
            "window": window,
            "key_mask": KEY_MASK if padded else None,
            "query_segments": QUERY_SEGMENTS if packed else None,
            "key_segments": KEY_SEGMENTS if packed else None,
            "mask": OWN[own],
        }
        mask = attention_mask(query_positions.astype("int32"), key_positions.astype("int32"), **options)
        if mask is None:
            assert not (causal or window or padded or packed or own)
            continue
        assert len(mask.shape) == 4
        expected = oracle(*everywhere, **options)
        found = np.broadcast_to(ops.convert_to_numpy(mask), expected.shape)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, expected, err_msg=str((causal, window, padded, packed)))


def test_positions_are_not_needed_where_nothing_depends_on_them():
    mask = attention_mask(None, None, key_mask=KEY_MASK)
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), KEY_MASK[:, None, None])


def jitted(function):
    return compiled(function, [], jit_compile=False)


# Additive masks: 0 for what may be attended to, a large negative number for what may not

ADDITIVE = np.where(OWN[2], 0.0, -1e9).astype("float32")
QUERY = RANDOM.normal(size=(BATCH, LENGTH, HEADS, 11)).astype("float32")
KEY = RANDOM.normal(size=(BATCH, KEYS, HEADS, 11)).astype("float32")
ATTEND = {
    "dot_product_attention": lambda mask: dot_product_attention(QUERY, KEY, KEY, mask=mask),
    "additive_attention": lambda mask: additive_attention(QUERY[:, :, 0], KEY[:, :, 0], KEY[:, :, 0],
                                                          np.ones((11, 1), "float32"), mask=mask)[0],
}  # fmt: skip
SHAPED = {"dot_product_attention": OWN[2][None, None], "additive_attention": KEY_MASK}


@pytest.mark.parametrize("bad", [ADDITIVE, np.where(OWN[2], 0, -np.inf), 2 * OWN[2].astype("int32")],
                         ids=["-1e9", "-inf", "2"])  # fmt: skip
def test_a_mask_of_other_values_than_0_and_1_is_refused(bad):
    for call in (
        lambda: attention_mask(None, None, mask=bad),
        lambda: attention_mask(None, None, key_mask=bad),
        lambda: ATTEND["dot_product_attention"](bad),
        lambda: ATTEND["additive_attention"](bad[:BATCH]),
    ):
        with pytest.raises(
            ValueError, match="takes 0 and 1, or booleans, as (key_)?mask .*becomes one by `.*mask == 0`"
        ):
            call()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8", "uint8"])
@pytest.mark.parametrize("name", ATTEND)
def test_0_and_1_of_any_type_are_booleans_known_or_not(name, dtype, assert_close):
    mask = SHAPED[name]
    expected = ATTEND[name](mask)
    assert_close(ATTEND[name](mask.astype(dtype)), expected)
    assert_close(jitted(ATTEND[name])(ops.convert_to_tensor(mask.astype(dtype))), expected)


@pytest.mark.parametrize("name", ATTEND)
def test_an_additive_mask_that_only_a_compiled_function_knows_gives_nan(name):
    additive = ops.convert_to_tensor(np.where(SHAPED[name], 0.0, -1e9).astype("float32"))
    if keras.backend.backend() == "torch":  # which runs eagerly
        pytest.skip("is known there")
    output = jitted(ATTEND[name])(additive)
    assert np.isnan(ops.convert_to_numpy(output)).all()


def test_floats_that_only_a_compiled_function_knows_are_not_made_into_one_mask():
    if keras.backend.backend() == "torch":
        pytest.skip("are known there")
    with pytest.raises(ValueError, match="key_mask > 0.*key_mask == 0"):
        jitted(lambda mask: attention_mask(None, None, key_mask=mask))(
            ops.convert_to_tensor(KEY_MASK.astype("float32"))
        )
    found = jitted(lambda mask: attention_mask(None, None, key_mask=mask))(
        ops.convert_to_tensor(KEY_MASK.astype("int32"))
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(found), KEY_MASK[:, None, None])
