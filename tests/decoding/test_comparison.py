"""Two results are compared where they say something: huge entries and empty rows neither hide nor alarm."""

import numpy as np
import pytest

from keras_transformer.decoding import comparison
from keras_transformer.decoding.comparison import FLOAT, agree


@pytest.fixture(name="logits")
def logits_fixture():
    return np.random.default_rng(0).normal(size=(2, 7, 211)).astype("float32")


def test_rounding_is_no_difference(logits):
    assert agree(logits, logits * (1 + 1e-6) + 1e-6, FLOAT)
    assert not agree(logits, logits + 0.1, FLOAT)


@pytest.mark.parametrize("places", [slice(3, 4), slice(5, None)], ids=["one", "nearly all"])
def test_huge_entries_hide_nothing(logits, places):
    logits[..., places] = -1e9
    changed = logits.copy()
    changed[1, 4, 1] += 0.1
    assert agree(logits, logits.copy(), FLOAT)
    assert not agree(logits, changed, FLOAT)


def test_a_position_is_judged_by_its_own_size(logits):
    logits[0, 0] *= 1e5
    changed = logits.copy()
    changed[1, 6] += 0.1
    assert not agree(logits, changed, FLOAT)


def test_what_is_left_where_numbers_cancel_is_no_difference(logits):
    assert agree(1e-7 * logits, -1e-7 * logits, FLOAT)
    assert agree(np.zeros_like(logits), 1e-7 * logits, FLOAT)


def test_infinite_entries_must_be_the_same(logits):
    logits[0, 0, :3] = -np.inf, np.nan, np.inf
    changed = logits.copy()
    assert agree(logits, changed, FLOAT)
    changed[0, 0, 0] = 1.0
    assert not agree(logits, changed, FLOAT)


def test_whole_numbers_and_shapes_must_be_equal():
    ids = np.arange(6).reshape(2, 3)
    assert agree(ids, ids.copy(), FLOAT)
    assert not agree(ids, ids + (ids == 5), FLOAT)
    assert not agree(ids, ids[:, :2], FLOAT)


def test_blocks_make_no_difference(logits, monkeypatch):
    monkeypatch.setattr(comparison, "BLOCK", 500)
    changed = logits.copy()
    changed[1, 6, 210] += 0.1
    assert agree(logits, logits.copy(), FLOAT)
    assert not agree(logits, changed, FLOAT)
