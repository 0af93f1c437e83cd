"""ONNX files answer as Python does, as far as Keras' exporter goes."""

import sys

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.export.samples import sample_inputs
from keras_transformer.export.signatures import generate_signature

pytest.importorskip("tf2onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.tensorflow


def test_plain_model_of_any_length(classifier, tmp_path):
    kt.export.onnx(classifier, tmp_path / "classifier.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "classifier.onnx")
    for shape in ((1, 3), (2, 7)):
        ids = np.random.default_rng(0).integers(1, 29, shape).astype("int32")
        (classes,) = session.run(None, {"tokens": ids})
        np.testing.assert_allclose(classes, classifier(ids), rtol=1e-4, atol=1e-5)


def test_steps_of_sampling(decoder_only, tmp_path):
    """A verified export ran its steps in a loop and compared the tokens."""
    generator = kt.Generator(decoder_only.model, max_length=7, end_token=3, strategy=kt.Sampling(seed=3))
    kt.export.onnx(generator, tmp_path / "steps", source_length=5, batch_size=2)
    assert {x.name for x in (tmp_path / "steps").iterdir()} == {
        "prefill_5.onnx",
        "decode.onnx",
        "finish.onnx",
        "keras_transformer.json",
    }
    session = onnxruntime.InferenceSession(tmp_path / "steps" / "decode.onnx")
    assert {"next_tokens", "next_finished"} <= {x.name for x in session.get_outputs()}


def test_steps_that_differ_are_refused(decoder_only, tmp_path, monkeypatch):
    values = sample_inputs(decoder_only, generate_signature(decoder_only), 5, 1)
    wrong = decoder_only(values[0])
    wrong["tokens"][..., 5] = 1 + wrong["tokens"][..., 5] % 28
    monkeypatch.setattr(sys.modules["keras_transformer.export.onnx"], "python_answers", lambda *_: wrong)
    with pytest.raises(kt.export.ExportMismatchError, match="ONNX export differs"):
        kt.export.onnx(decoder_only, tmp_path / "steps", source_length=5)
    assert list(tmp_path.iterdir()) == []


def test_what_the_exporter_cannot_convert(tmp_path):
    inputs = keras.Input((5, 5))
    model = keras.Model(inputs, keras.ops.svd(inputs, compute_uv=False), name="singular")
    with pytest.raises(ValueError, match="(?s)cannot convert the model 'singular'.*saved_model"):
        kt.export.onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
