"""A model that `model.quantize` has made small is exported as it is, or refused with the way out."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .conftest import roughen

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
PROMPTS = np.array([[5, 9, 12, 4, 7], [11, 6, 0, 0, 0]], "int32")


def generator(mode):
    model = kt.models.language_model(29, num_layers=1, dim=20, num_heads=2, intermediate_dim=22, dropout=0.0)
    roughen(model).quantize(mode)
    return kt.Generator(model, max_length=9, end_token=3, jit_compile=False)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_saved_model_answers_as_python_does(mode, tmp_path):
    subject = generator(mode)
    report = kt.export.saved_model(subject, tmp_path / "model")
    assert report.agreement == 1.0
    np.testing.assert_array_equal(kt.export.load(tmp_path / "model")(PROMPTS)["tokens"], subject(PROMPTS)["tokens"])


@pytest.mark.parametrize("subject", [lambda: generator("int8"), lambda: generator("int8").model])
def test_litert_is_refused_with_the_way_out(subject, tmp_path):
    with pytest.raises(ValueError, match=r"layers of the model 'language_model' are so quantized.*quantize='int8'"):
        kt.export.litert(subject(), tmp_path / "model.tflite", source_length=5)
    assert not list(tmp_path.iterdir())


def test_litert_holds_int4_tables_and_lora_in_int8_files(tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    report = kt.export.litert(generator("int4"), tmp_path / "int4.tflite", source_length=5, batch_size=2)
    assert report.agreement == 1.0
    ids = keras.Input((None,), dtype="int32", name="tokens")
    table = kt.TokenEmbedding(29, 20, lora_rank=2)
    model = keras.Model(ids, table(table(ids), reverse=True))
    table.lora_embeddings_b.assign(np.random.default_rng(2).normal(size=(2, 20)))
    kt.export.litert(model, tmp_path / "lora.tflite", source_length=5, batch_size=2, quantize="int8")
    run = interpreter.Interpreter(str(tmp_path / "lora.tflite")).get_signature_runner("serving_default")
    [logits] = run(tokens=PROMPTS).values()
    expected = model(PROMPTS).numpy()
    assert np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()
