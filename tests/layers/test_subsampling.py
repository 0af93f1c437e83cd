"""Strided convolutions against NumPy's, Keras' and PyTorch's; padding counts for nothing, on the right or between."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import BATCH, DIM, as_numpy, randomize
from .oracle import weights_of

LENGTHS = np.array([13, 8, 3])
X = np.random.default_rng(2).normal(size=(BATCH, 13, 5)).astype("float32")
MASK = np.arange(13) < LENGTHS[:, None]


def made(strides, **options):
    layer = kt.ConvolutionalSubsampling(DIM, strides, **options)
    layer(X)
    randomize(layer)
    return layer


def by_hand(layer, x):
    """In float64, step by step, of one row (T, C)."""
    x, k = x.astype("float64"), layer.kernel_size
    for convolution, stride in zip(layer.convolutions, layer.strides, strict=True):
        weights = weights_of(convolution)
        steps = []
        for t in range(0, len(x), stride):
            y = weights["bias"].copy()
            for i in range(k):
                at = t + i - (k - 1) // 2
                if 0 <= at < len(x):
                    y += x[at] @ weights["kernel"][i]
            steps.append(np.maximum(y, 0))
        x = np.stack(steps)
    return x


@pytest.mark.parametrize(("strides", "kernel_size"), [((2, 2), 3), (3, 5), ((1, 2), 2), ((2, 1, 3), 4), (2, 1)])
def test_a_padded_batch_is_each_row_alone_and_what_comes_out_by_hand(strides, kernel_size, assert_close):
    layer = made(strides, kernel_size=kernel_size)
    found = as_numpy(layer(np.where(MASK[..., None], X, 97.0), mask=MASK))
    mask = as_numpy(layer.compute_mask(X, MASK))
    for b, length in enumerate(LENGTHS):
        row = X[b : b + 1, :length]
        expected = by_hand(layer, row[0])
        assert_close(as_numpy(layer(row))[0], expected)
        assert_close(found[b, mask[b]], expected)
        np.testing.assert_array_equal(mask[b], np.arange(found.shape[1]) < len(expected))


def test_lengths():
    layer = made((2, 2))
    assert [layer(X[:, :n]).shape[1] for n in (1, 2, 3, 4, 5, 8, 9, 13)] == [1, 1, 1, 1, 2, 2, 3, 4]
    assert layer.compute_output_spec(keras.KerasTensor((None, 13, 5))).shape == (None, 4, DIM)
    assert layer.compute_output_shape((7, None, 5)) == (7, None, DIM)


def test_padding_between_real_steps_counts_as_zeros(assert_close):
    layer = made(2, kernel_size=3)
    mask = np.random.default_rng(0).random((BATCH, 13)) < 0.5
    expected = np.stack([by_hand(layer, np.where(mask[b, :, None], X[b], 0)) for b in range(BATCH)])
    assert_close(layer(X, mask=mask), expected)
    np.testing.assert_array_equal(as_numpy(layer.compute_mask(X, mask)), mask[:, ::2])


def test_whisper_is_one_setting(assert_close):
    """Against PyTorch's convolutions with padding 1, and its exact GELU."""
    torch = pytest.importorskip("torch")
    layer = made((1, 2), activation="gelu")
    x = torch.tensor(X).double().transpose(1, 2)
    for convolution, stride in zip(layer.convolutions, (1, 2), strict=True):
        weights = weights_of(convolution)
        kernel, bias = (torch.tensor(weights[name]).double() for name in ("kernel", "bias"))
        x = torch.nn.functional.gelu(torch.conv1d(x, kernel.permute(2, 1, 0), bias, stride=stride, padding=1))
    assert_close(layer(X), x.transpose(1, 2).numpy())


def test_the_mask_goes_on_to_the_encoder(assert_close):
    ids = keras.Input((None,), dtype="int32")
    x = kt.ConvolutionalSubsampling(22, activation=None)(kt.TokenEmbedding(23, 5)(ids))
    model = keras.Model(ids, kt.MaskedPooling()(kt.EncoderLayer(2, 7)(x)))
    rows = [[5, 9, 4, 2, 7, 8, 1], [3, 4], [6, 8, 2, 11, 4]]
    batch = np.array([row + [0] * (9 - len(row)) for row in rows])
    assert_close(model(batch), np.concatenate([as_numpy(model(np.array([row]))) for row in rows]))


def test_a_batch_of_another_width_is_refused():
    with pytest.raises(ValueError, match="inputs of width 5, got width 4"):
        made((2, 2))(X[..., :4])


def test_it_comes_back_from_a_file(tmp_path, assert_close):
    x = keras.Input((None, 5))
    model = keras.Model(x, kt.ConvolutionalSubsampling(DIM, (2, 3), activation="quick_gelu")(x))
    model.layers[-1].convolutions[0].trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].strides == (2, 3)
    assert [w.path.split("/")[-2] for w in loaded.trainable_weights] == ["convolution_1"] * 2
    assert_close(loaded(X), model(X))
