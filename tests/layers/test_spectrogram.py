"""The log-mel spectrogram against NumPy's Fourier transform, and against what Whisper is given by `transformers`."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt


def sounds(*sizes: int) -> list[np.ndarray]:
    """Chirps in noise, the second much softer."""
    random = np.random.default_rng(3)
    found = []
    for loudness, size in zip((0.7, 0.003), sizes, strict=True):
        t = np.arange(size) / 16000
        found.append((loudness * np.sin(2e3 * t * (1 + 3 * t)) + 1e-4 * random.normal(size=size)).astype("float32"))
    return found


def expected(sound: np.ndarray, bins: int, rate: int, size: int, stride: int) -> np.ndarray:
    """In float64, frame by frame."""
    x = np.pad(sound.astype("float64"), size // 2, mode="reflect")
    window = np.hanning(size + 1)[:-1]
    rows = [np.fft.rfft(window * x[i : i + size]) for i in range(0, len(x) - size + 1, stride)]
    power = np.abs(rows[: len(sound) // stride]) ** 2
    mels = np.log10(np.maximum(power @ filters(bins, size // 2 + 1, rate), 1e-10))
    return (np.maximum(mels, mels.max() - 8) + 4) / 4


def filters(bins: int, count: int, rate: int) -> np.ndarray:
    """Slaney's filters, one by one."""

    def to_hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + np.log(rate / 2 / 1000) / np.log(6.4) * 27
    corners = [to_hertz(mel) for mel in np.linspace(0, top, bins + 2)]
    table = np.zeros((count, bins))
    for k, frequency in enumerate(np.linspace(0, rate / 2, count)):
        for i, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
            height = min((frequency - low) / (middle - low), (high - frequency) / (high - middle))
            table[k, i] = max(0.0, height) * 2 / (high - low)
    return table


def test_it_is_what_numpy_makes_of_each_sound():
    options = {"num_mel_bins": 23, "sampling_rate": 11000, "frame_length": 62, "stride": 37}
    layer = kt.LogMelSpectrogram(length=1500, **options)
    first, second = sounds(1300, 1777)
    batch = np.stack([np.pad(first, (0, 477)), second])
    found = ops.convert_to_numpy(layer(batch))
    assert found.shape == (2, 40, 23) == layer.compute_output_spec(keras.KerasTensor((2, 1777))).shape
    for row, sound in zip(found, batch, strict=True):
        assert abs(row - expected(sound[:1500], 23, 11000, 62, 37)).max() < 5e-5
    short = ops.convert_to_numpy(layer(first[None]))
    np.testing.assert_allclose(short[0], found[0], atol=1e-6)
    as_it_is = ops.convert_to_numpy(kt.LogMelSpectrogram(length=None, **options)(first[None]))
    assert abs(as_it_is[0] - expected(first, 23, 11000, 62, 37)).max() < 5e-5


@pytest.mark.parametrize("length", [None, 1500])
def test_a_padded_batch_is_each_sound_alone(length, assert_close):
    layer = kt.LogMelSpectrogram(23, length, sampling_rate=11000, frame_length=62, stride=37, mask_zero=True)
    sizes = (1300, 871, 1, 0)
    x = np.zeros((4, 1777), "float32")
    for row, size in zip(x, sizes, strict=True):
        row[:size] = np.random.default_rng(size).normal(size=size)
    x[0, 500:700] = 0  # silence within is no padding
    found, mask = (ops.convert_to_numpy(y) for y in (layer(x), layer.compute_mask(x)))
    np.testing.assert_array_equal(mask.sum(1), [36, 24, 1, 0])
    assert mask[0, :36].all() and mask.shape == found.shape[:2] and not found[~mask].any()
    assert found.shape[1] == (49 if length is None else 41)
    for b, size in enumerate(sizes[:2]):
        alone = ops.convert_to_numpy(layer(x[b : b + 1, :size]))[0]
        assert_close(alone[: mask[b].sum()], found[b, mask[b]], 1e-6)
        silent = np.pad(x[b, :size], (0, 62))  # in place of a reflection
        by_hand = expected(silent, 23, 11000, 62, 37)[: mask[b].sum()]
        assert abs(by_hand - found[b, mask[b]]).max() < 5e-5


def test_its_mask_goes_to_the_encoder_and_is_missed_where_it_is_lost():
    sound = keras.Input((None,))
    x = kt.LogMelSpectrogram(10, None, frame_length=32, stride=16, mask_zero=True)(sound)
    _, scores = kt.EncoderLayer(2, 7)(x, return_attention_scores=True)
    weights = ops.convert_to_numpy(keras.Model(sound, scores)(np.pad(np.ones((1, 81), "float32"), ((0, 0), (0, 60)))))
    assert (weights[..., :6] > 0).all() and not weights[..., 6:].any()
    with pytest.warns(UserWarning, match="dropped by the operation .*'lost'"):
        kt.EncoderLayer(2, 7)(keras.layers.AveragePooling1D(2, name="lost")(x))


def test_it_is_serialized_and_refuses():
    layer = kt.LogMelSpectrogram(7, 999, stride=50, mask_zero=True)
    assert kt.LogMelSpectrogram.from_config(layer.get_config()).get_config() == layer.get_config()
    with pytest.raises(ValueError, match="even frame_length, got 41"):
        kt.LogMelSpectrogram(frame_length=41)
    with pytest.raises(ValueError, match="length above that, got 200"):
        kt.LogMelSpectrogram(length=200)


@pytest.mark.parametrize("length", [None, 999])
@pytest.mark.parametrize("mask_zero", [False, True])
def test_what_is_no_sound_is_refused(length, mask_zero):
    """At once, of a symbolic tensor and of values; before the layer is built and after."""
    layer = kt.LogMelSpectrogram(7, length, stride=50, mask_zero=mask_zero)
    pcm = np.array([[9000, -9000] * 300])
    for _ in range(2):
        for make in (keras.KerasTensor, np.zeros):
            for shape in ((400,), (2, 1000, 1)):
                with pytest.raises(
                    ValueError, match=rf"'log.*' takes .*\(batch, samples\), got {re.escape(str(shape))}"
                ):
                    layer(make(shape, "float32"))
            for dtype in ("int16", "int32", "uint8"):
                with pytest.raises(
                    ValueError, match=rf"'log.*' takes sounds in float, from -1 to 1, got {dtype}.*32768"
                ):
                    layer(make((1, 600), dtype))
        layer((pcm / 32768).astype("float32"))


@pytest.mark.parametrize("samples", [1, 149, 200])
def test_a_sound_too_short_to_be_reflected_is_refused_or_nan(samples, assert_close):
    layer, short = kt.LogMelSpectrogram(7, None, stride=10), np.ones((1, samples), "float32")
    for x in (keras.KerasTensor(short.shape), short):
        with pytest.raises(ValueError, match=rf"more samples than that, got \(1, {samples}\).* length=.*mask_zero"):
            layer(x)
    sound = keras.Input((None,))
    model = keras.Model(sound, layer(sound))
    long = np.random.default_rng(1).normal(size=(1, 201)).astype("float32")
    assert_close(model.predict(long, verbose=0), layer(long), 1e-5)
    assert layer(long).shape == layer.compute_output_spec(keras.KerasTensor(long.shape)).shape == (1, 20, 7)
    if keras.backend.backend() == "tensorflow":  # the others know how long it is
        assert np.isnan(model.predict(short, verbose=0)).all()
    else:
        with pytest.raises(ValueError, match="more samples than that"):
            model.predict(short, verbose=0)
    for options in ({"length": 500}, {"length": None, "mask_zero": True}):
        other = kt.LogMelSpectrogram(7, stride=10, **options)
        assert np.isfinite(ops.convert_to_numpy(other(short))).all()
        assert other(short).shape == other.compute_output_spec(keras.KerasTensor(short.shape)).shape


@pytest.mark.slow
@pytest.mark.parametrize("bins", [80, 128])
def test_it_is_what_whisper_is_given(bins):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    for sound in sounds(61234, 500_001):
        given = extractor(sound, sampling_rate=16000, return_tensors="np")["input_features"]
        found = ops.convert_to_numpy(kt.LogMelSpectrogram(bins)(sound[None]))
        assert abs(found - given.transpose(0, 2, 1)).max() < 1e-4
