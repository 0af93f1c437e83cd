"""`attention_mask`, all its restrictions and all their combinations, against a loop over its definition."""

import itertools

import numpy as np
import pytest
from keras import ops

from keras_transformer.ops import attention_mask

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
