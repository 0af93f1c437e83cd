"""`MaskedPooling` is the mean or the maximum over real tokens, and zeros where there are none; so are its gradients."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import BATCH, DIM, MASK, VOCABULARY, X, as_numpy, gradients

EMPTY = np.where(np.arange(BATCH)[:, None] == 1, False, MASK)  # the second row has no token
ORACLES = {"mean": lambda rows: rows.mean(axis=0), "max": lambda rows: rows.max(axis=0)}


def by_hand(mode, x, mask):
    """One row, one token at a time."""
    return np.stack([ORACLES[mode](row[real]) if real.any() else np.zeros(DIM) for row, real in zip(x, mask)])  # noqa: B905


@pytest.mark.parametrize("mode", ORACLES)
@pytest.mark.parametrize("mask", [MASK, EMPTY, EMPTY.astype("float32")], ids=["padded", "an empty row", "floats"])
def test_is_that_of_the_real_tokens(mode, mask, assert_close):
    x = np.where(mask[..., None] > 0, X, np.float32("nan"))  # what lies under padding does not matter
    assert_close(kt.MaskedPooling(mode)(x, mask=mask), by_hand(mode, x, mask.astype(bool)))


@pytest.mark.parametrize("mode", ORACLES)
def test_without_a_mask_all_tokens_are_real(mode, assert_close):
    assert_close(kt.MaskedPooling(mode)(X), by_hand(mode, X, np.ones_like(MASK)))


@pytest.mark.parametrize("mode", ORACLES)
def test_gradients_are_finite_and_none_flows_into_padding(mode):
    layer = kt.MaskedPooling(mode)
    ((gradient,),) = gradients(lambda x: layer(x, mask=EMPTY), X, cotangents=[np.ones((BATCH, DIM), "float32")])
    assert np.isfinite(gradient).all()
    assert not gradient[~EMPTY].any()
    np.testing.assert_allclose(gradient.sum(axis=1), np.where(EMPTY.any(axis=1), 1.0, 0.0)[:, None] + np.zeros(DIM))


@pytest.mark.parametrize("mode", ORACLES)
def test_takes_the_mask_that_keras_carries_and_ends_it(mode, tmp_path, assert_close):
    ids = keras.Input((None,), dtype="int32")
    embedding = kt.TokenEmbedding(VOCABULARY, DIM)
    pooled = kt.MaskedPooling(mode)(embedding(ids))
    assert getattr(pooled, "_keras_mask", None) is None
    model = keras.Model(ids, pooled)
    tokens = np.array([[5, 7, 0, 0], [0, 0, 0, 0]])
    vectors = as_numpy(embedding(ops.convert_to_tensor(tokens)))
    assert_close(model(tokens), by_hand(mode, vectors, tokens != 0))
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(tokens), model(tokens))
    copy = kt.MaskedPooling.from_config(kt.MaskedPooling(mode, name="pool").get_config())
    assert (copy.mode, copy.name) == (mode, "pool")


def test_half_precision_sums_in_float32():
    x = np.full((1, 4096, DIM), 3.0, "float16")
    pooled = kt.MaskedPooling("mean", dtype="float16")(x, mask=np.ones((1, 4096), bool))
    assert pooled.dtype in ("float16", getattr(pooled.dtype, "as_numpy_dtype", None)) or "float16" in str(pooled.dtype)
    np.testing.assert_array_equal(as_numpy(pooled), 3.0)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"MaskedPooling 'masked_pooling\w*' takes one of \['max', 'mean'\] as mode"):
        kt.MaskedPooling("sum")
    with pytest.raises(ValueError, match="takes inputs of shape"):
        kt.MaskedPooling()(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="additive mask"):
        kt.MaskedPooling()(X, mask=np.where(MASK, 0.0, -1e9))
