"""Each family leaves Keras: what a SavedModel and a LiteRT file answer is what Python answers."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .cases import CASES
from .checkpoints import KINDS
from .encoder_cases import CASES as ENCODERS
from .helpers import save_random
from .test_encoders import made_inputs, ours
from .test_encoders import save_random as save_encoder
from .test_sentences import save_encoder as save_bert
from .test_sentences import save_modules

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are TensorFlow's"),
]
DECODERS = {kind: name for name, (kind, _) in reversed(CASES.items())}.values()
PROMPTS = np.array([[3, 1, 4, 1, 5]], "int32")


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_exported(name, tmp_path):
    save_random(name, tmp_path / "in")
    model = kt.pretrained.load_model(tmp_path / "in")
    generator = kt.Generator(model, max_length=13, end_token=None, jit_compile=False)
    expected = generator(PROMPTS)["tokens"][:, :, :13]
    assert kt.export.saved_model(generator, tmp_path / "saved_model").agreement == 1.0
    np.testing.assert_array_equal(kt.export.load(tmp_path / "saved_model")(PROMPTS)["tokens"], expected)
    report = kt.export.litert(generator, tmp_path / "model.tflite", source_length=5)
    assert report.agreement == 1.0
    np.testing.assert_array_equal(kt.export.load(tmp_path / "model.tflite")(PROMPTS)["tokens"], expected)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet", "modernbert", "vit", "clip"])
def test_an_encoder_is_exported(name, tmp_path):
    assert name in ENCODERS
    save_encoder(name, tmp_path / "in")
    model = kt.pretrained.load_model(tmp_path / "in")
    inputs = {
        key: value[:1].astype("float32" if key == "pixels" else "int32")
        for key, value in made_inputs(name, model).items()
    }
    expected = model(inputs)
    assert kt.export.saved_model(model, tmp_path / "saved_model").agreement == 1.0
    assert kt.export.litert(model, tmp_path / "model.tflite", source_length=23).agreement == 1.0
    for path in ("saved_model", "model.tflite"):
        found = kt.export.load(tmp_path / path)(inputs)
        for key, value in ours(expected).items():
            value = np.array(value)
            other = next(iter(found.values())) if key is None else found[key]
            np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-4 * abs(value).max())


def test_texts_go_into_a_sentence_encoder(tmp_path):
    save_bert(tmp_path / "in", vocab_size=311)
    save_modules(tmp_path / "in", {"word_embedding_dimension": 44, "pooling_mode_mean_tokens": True}, normalize=True)
    KINDS["wordpiece"]().save(str(tmp_path / "in" / "tokenizer.json"))
    model = kt.pretrained.load_model(tmp_path / "in")
    tokenizer = kt.pretrained.load_tokenizer(tmp_path / "in")
    texts = ["the quick brown fox", "naïve banana 2024"]
    expected = np.array(model(tokenizer(texts)))
    kt.export.saved_model(model, tmp_path / "saved_model", source_tokenizer=tokenizer, samples=texts)
    (found,) = kt.export.load(tmp_path / "saved_model")(texts).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)
