"""Recordings are read and split by their index, sounds are padded and put together as is said, and the scripts run."""

import importlib
import json
import sys

import keras
import numpy as np
import pytest

from .scripts import EXAMPLES, run_script
from .spoken import tone, write_recordings

pytestmark = [pytest.mark.tensorflow, pytest.mark.once]
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("fsdd"), (0, 4, 5, 9, 10, 49))


@pytest.fixture(scope="module")
def examples():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("speech"), importlib.import_module("spoken_sequences")
    sys.path.remove(str(EXAMPLES))


def test_the_index_tells_the_part(examples, folder):
    data = examples[0].read(folder)
    for part, indices in {"test": (0, 4), "validation": (5, 9), "train": (10, 49)}.items():
        expected = {(d, i): tone(d, i) / 32768 for d in range(10) for i in indices}
        assert len(data[part]) == 2 * len(expected)
        for sound, digit in data[part]:
            matches = [i for i in indices if len(expected[digit, i]) == len(sound)]
            np.testing.assert_allclose(sound, expected[digit, matches[0]], atol=1e-7)


def test_another_kind_of_file_is_refused(examples, tmp_path):
    import wave

    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8))
    with pytest.raises(ValueError, match=r"got \(2, 2, 8000\)"):
        examples[0].read_wave((tmp_path / "x.wav").read_bytes())


def test_augmentation_keeps_what_is_spoken(examples):
    sound = (tone(4, 10) / 32768).astype("float32")
    random = np.random.default_rng(0)
    found = [examples[0].augmented(sound, random) for _ in range(200)]
    assert len(sound) / 1.18 - 2 < min(map(len, found)) and max(map(len, found)) < len(sound) / 0.85 + 2400
    peaks = np.array([np.abs(x).max() for x in found]) / np.abs(sound).max()
    assert 0.3 < peaks.min() < 0.5 and 2.5 < peaks.max() < 3.9
    pitches = [np.argmax(np.abs(np.fft.rfft(x, 16_000))) / 2 for x in found]
    assert 1300 * 0.84 < min(pitches) < 1160 and 1450 < max(pitches) < 1300 * 1.19


def test_rows_and_sequences(examples, folder):
    speech, example = examples
    np.testing.assert_array_equal(example.rows_of(np.array([[0, 9]])), [[1, 3, 12, 2]])
    tokens = np.array([[[1, 3, 12, 2, 0]], [[1, 5, 0, 0, 0]]])
    assert example.written({"tokens": tokens, "lengths": np.array([[4], [2]])}) == [[0, 9], [2]]
    assert example.exact([[0, 9], [2]], np.array([[0, 9], [2, 3]])) == 0.5
    data = speech.read(folder)["test"]
    sounds, digits = example.sequences(data, 3, 7, seed=3)
    again, _ = example.sequences(data, 3, 7, seed=3)
    np.testing.assert_array_equal(sounds, again)
    assert digits.shape == (7, 3)
    for row, expected in zip(sounds, digits, strict=True):
        first = tone(expected[0], 0), tone(expected[0], 4)
        assert any(np.allclose(row[: len(x)], x / 32768, atol=1e-7) for x in first)
        spoken = sum(len(tone(d, 0)) for d in expected)
        assert spoken - 10 < len(np.trim_zeros(row, "b")) < spoken + 3 * 44 + 2 * 2400


def test_batches_of_sequences(examples, folder):
    speech, example = examples
    batches = example.batches(speech.read(folder)["train"], seed=0)
    lengths = set()
    for _ in range(12):
        (sounds, target), labels = next(batches)
        assert len(sounds) == len(target) == 32 and (target[:, 0] == 1).all() and (labels[:, -1] == 2).all()
        np.testing.assert_array_equal(target[:, 1:], labels[:, :-1])
        lengths.add(target.shape[1] - 1)
    assert lengths == {1, 2, 3, 4, 5}


def test_a_padded_batch_is_each_sound_alone(examples, assert_close):
    keras.utils.set_random_seed(1)
    model = examples[0].build()
    sounds = [(tone(d, 0) / 32768).astype("float32") for d in (1, 9)]
    alone = [np.asarray(model(sound[None]))[0] for sound in sounds]
    assert_close(model(examples[0].pad(sounds)), np.stack(alone))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["speech", "spoken_sequences"])
def test_a_run(folder, tmp_path, name):
    run_script(f"{name}.py", tmp_path, "--data", str(folder), "--quick", "--output", str(tmp_path))
    figures = json.loads((tmp_path / "examples" / "results" / f"{name}.json").read_text())
    assert figures["quick"] and figures["runs"][0]["weights"] > 100_000
    assert (tmp_path / "docs" / "examples" / f"{name}.png").exists()
