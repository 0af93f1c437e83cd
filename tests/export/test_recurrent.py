"""Recurrent models export as all others do; the exporters compare what they wrote with Python."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .conftest import OPTIONS

pytestmark = pytest.mark.tensorflow

SOURCES = np.array([[5, 9, 4, 7], [8, 3, 0, 0]])
BEAMS = kt.BeamSearch(3, length_penalty=0.6)
ENCODER_DECODERS = {  # what their decoders keep differs: one state or two, a fixed context vector, all of the encoder
    "lstm, state only": ({"cell": "lstm", "num_layers": 2}, kt.Greedy()),
    "rnn, fixed context": ({"cell": "rnn"}, BEAMS),
    "lstm, dot": ({"cell": "lstm", "attention": "dot"}, kt.Greedy()),
    "rnn, additive": ({"cell": "rnn", "attention": "additive"}, kt.Greedy()),
    "gru, additive": ({"cell": "gru", "attention": "additive"}, BEAMS),
}


def roughen(model):
    """Weights with which it says different things."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        scale = 0.5 if "embeddings" in weight.path else 2 / weight.shape[0] ** 0.5
        weight.assign(scale * random.normal(size=weight.shape))
    return model


def encoder_decoder(kind):
    options, strategy = ENCODER_DECODERS[kind]
    model = roughen(kt.models.recurrent_seq2seq(23, 29, dim=14, **options))
    return kt.Generator(model, max_length=7, strategy=strategy, **OPTIONS)


def decoder_only():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.RecurrentDecoderLayer(14, "lstm")(kt.TokenEmbedding(29, 14)(tokens))
    model = roughen(keras.Model(tokens, keras.layers.Dense(29)(x)))
    return kt.Generator(model, max_length=7, end_token=3, jit_compile=False)


def assert_says_different_things(generator):
    assert len(np.unique(generator(SOURCES)["tokens"])) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_encoder_decoders(kind, tmp_path):
    pytest.importorskip("ai_edge_litert")
    generator = encoder_decoder(kind)
    assert_says_different_things(generator)
    kt.export.saved_model(generator, tmp_path / "saved", verify=True)
    kt.export.litert(generator, tmp_path / "model.tflite", source_length=4, batch_size=2, verify=True)


@pytest.mark.slow
def test_decoder_only(tmp_path):
    pytest.importorskip("ai_edge_litert")
    generator = decoder_only()
    assert_says_different_things(generator)
    kt.export.saved_model(generator, tmp_path / "saved", verify=True)
    kt.export.litert(generator, tmp_path / "model.tflite", source_length=4, batch_size=2, verify=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm, state only", "gru, additive"])
def test_the_state_goes_from_step_to_step_in_a_step_layout(kind, tmp_path):
    pytest.importorskip("ai_edge_litert")
    generator = encoder_decoder(kind)
    kt.export.litert(generator, tmp_path / "model.tflite", source_length=4, batch_size=2, layout="step", verify=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm, state only", "rnn, additive"])
def test_a_saved_model_streams_in_a_process_without_this_package(kind, tmp_path, bare_process):
    generator = encoder_decoder(kind)
    kt.export.saved_model(generator, tmp_path / "saved", streaming=True, verify=True)
    code = """
    import numpy as np, tensorflow as tf
    model = tf.saved_model.load("saved")
    print(model.signatures["generate"](source=tf.constant(data, "int32"))["tokens"].numpy().tolist())
    """
    tokens = bare_process(code, SOURCES.tolist(), without=["keras", "keras_transformer"])
    assert tokens.strip() == str(np.asarray(generator(SOURCES)["tokens"]).tolist())
    streamed, expected = list(kt.export.load(tmp_path / "saved").stream(SOURCES)), list(generator.stream(SOURCES))
    assert len(streamed) > 1
    np.testing.assert_array_equal(streamed, expected)
