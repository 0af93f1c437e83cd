"""Recurrent models export as all others do; the exporters compare what they wrote with Python."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def models():
    """A GRU with additive attention that reads a source, and an LSTM that continues prompts."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.RecurrentDecoderLayer(14, "lstm")(kt.TokenEmbedding(29, 14)(tokens))
    decoder_only = keras.Model(tokens, keras.layers.Dense(29)(x))
    encoder_decoder = kt.models.recurrent_seq2seq(23, 29, cell="gru", attention="additive", dim=14)
    random = np.random.default_rng(0)
    for model in (encoder_decoder, decoder_only):
        for weight in model.weights:
            scale = 0.5 if "embeddings" in weight.path else 2 / weight.shape[0] ** 0.5
            weight.assign(scale * random.normal(size=weight.shape))
    return {"encoder-decoder": encoder_decoder, "decoder-only": decoder_only}


@pytest.fixture(scope="module", params=["greedy", "beams"])
def generator(request, models):
    strategy = kt.BeamSearch(3, length_penalty=0.6) if request.param == "beams" else kt.Greedy()
    model = models["encoder-decoder" if request.param == "beams" else "decoder-only"]
    generator = kt.Generator(model, max_length=7, end_token=3, start_token=2, strategy=strategy)
    assert len(np.unique(generator(np.array([[5, 9, 4, 7], [8, 3, 0, 0]]))["tokens"])) >= 4
    return generator


def test_saved_model(generator, tmp_path):
    kt.export.saved_model(generator, tmp_path / "saved", verify=True)


def test_litert(generator, tmp_path):
    pytest.importorskip("ai_edge_litert")
    kt.export.litert(generator, tmp_path / "model.tflite", source_length=4, batch_size=2, verify=True)
