"""Patches of images and series are what one by one gives; padding of a series counts for nothing."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import BATCH, DIM, LENGTH, X, as_numpy, randomize
from .oracle import weights_of

IMAGE = np.random.default_rng(1).normal(size=(BATCH, 11, 7, 2)).astype("float32")
SERIES = np.random.default_rng(2).normal(size=(BATCH, 13, 2)).astype("float32")
LENGTHS = np.array([13, 8, 3])


def made(x, *sizes, **options):
    layer = kt.PatchEmbedding(DIM, *sizes, **options)
    layer(x)
    randomize(layer)
    return layer


def starts(length: int, patch: int, stride: int) -> range:
    return range(0, length - patch + 1, stride)


@pytest.mark.parametrize(
    ("patch", "stride"), [((3, 2), None), (2, None), ((5, 3), (2, 1)), ((2, 3), 4)], ids=lambda x: str(x)
)
def test_patches_of_an_image_row_by_row(patch, stride, assert_close):
    layer = made(IMAGE, patch, strides=stride)
    (height, width), (down, right) = ((x, x) if isinstance(x, int) else x for x in (patch, stride or patch))
    weights = weights_of(layer)
    matrix = weights["kernel"].reshape(-1, DIM)
    expected = [
        IMAGE[:, top : top + height, left : left + width].reshape(BATCH, -1).astype("float64") @ matrix
        for top in starts(11, height, down)
        for left in starts(7, width, right)
    ]
    assert_close(layer(IMAGE), np.stack(expected, axis=1) + weights["bias"])


@pytest.mark.parametrize(("patch", "stride"), [(3, None), (5, 2), (2, 3)])
def test_patches_of_a_series(patch, stride, assert_close):
    layer = made(SERIES, patch, strides=stride)
    matrix = weights_of(layer)["kernel"].reshape(-1, DIM)
    parts = [SERIES[:, t : t + patch].reshape(BATCH, -1) for t in starts(13, patch, stride or patch)]
    assert_close(layer(SERIES), np.stack(parts, axis=1).astype("float64") @ matrix + weights_of(layer)["bias"])


@pytest.mark.parametrize(("patch", "stride"), [(3, 3), (5, 2), (2, 3)])
def test_a_patch_is_real_if_any_step_is_and_padding_counts_as_zeros(patch, stride, assert_close):
    layer = made(SERIES, patch, strides=stride)
    mask = np.arange(13) < LENGTHS[:, None]
    garbage = np.where(mask[..., None], SERIES, 97.0)
    expected = as_numpy(layer(np.where(mask[..., None], SERIES, 0.0)))
    assert_close(layer(garbage, mask=mask), expected, 1e-6)
    real = [[mask[b, t : t + patch].any() for t in starts(13, patch, stride)] for b in range(BATCH)]
    found = as_numpy(layer.compute_mask(garbage, mask))
    np.testing.assert_array_equal(found, real)
    assert found.dtype == bool


def test_the_mask_goes_from_an_embedding_to_the_encoder(assert_close):
    """A padded batch is each row by itself, padded to whole patches."""
    ids = keras.Input((None,), dtype="int32")
    x = kt.PatchEmbedding(22, 2)(kt.TokenEmbedding(23, 5)(ids))
    model = keras.Model(ids, kt.MaskedPooling()(kt.EncoderLayer(2, 7)(x)))
    rows = [[5, 9, 4, 2, 7, 8, 1], [3, 4], [6, 8, 2, 11]]
    batch = np.array([row + [0] * (8 - len(row)) for row in rows])
    alone = [as_numpy(model(np.array([row + [0] * (len(row) % 2)])))[0] for row in rows]
    assert_close(model(batch), np.stack(alone))


def test_images_and_series_without_a_mask_have_none():
    assert made(SERIES, 3).compute_mask(SERIES, None) is None
    assert made(IMAGE, 3).compute_mask(IMAGE, None) is None


def test_sizes_come_back_from_a_file(tmp_path, assert_close):
    x = keras.Input((11, None, 2))
    model = keras.Model(x, kt.PatchEmbedding(DIM, (3, 2), strides=[2, 5])(x))
    assert model.output_shape == (None, None, DIM)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].strides == (2, 5)
    assert_close(loaded(IMAGE), model(IMAGE))


def test_half_precision(assert_close):
    layer = kt.PatchEmbedding(DIM, 3, dtype="mixed_float16")
    y = layer(X, mask=np.ones((BATCH, LENGTH), bool))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert_close(as_numpy(y), as_numpy(made_like(layer)(X)), 1e-2)


def made_like(layer):
    """The same in float32."""
    single = kt.PatchEmbedding(DIM, layer.patch_size)
    single(X)
    single.set_weights(layer.get_weights())
    return single
