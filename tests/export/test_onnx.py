"""ONNX files answer as Python does, as far as Keras' exporter goes."""

import sys

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.export.samples import sample_inputs
from keras_transformer.export.signatures import generate_signature

from .conftest import OPTIONS

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
    generator = kt.Generator(decoder_only.model, max_length=7, strategy=kt.Sampling(seed=3), **OPTIONS)
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


@pytest.mark.parametrize("activation", ["gelu", keras.ops.erf], ids=["gelu", "erf"])
def test_exact_gelu(activation, tmp_path):
    inputs = keras.Input((5,), name="inputs")
    model = keras.Model(inputs, keras.layers.Dense(7, activation=activation)(inputs))
    kt.export.onnx(model, tmp_path / "model.onnx")
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    (output,) = kt.export.load(tmp_path / "model.onnx")(x).values()
    np.testing.assert_allclose(output, model(x), rtol=1e-5, atol=1e-6)


def test_an_operation_that_onnx_lacks_is_refused_unverified(tmp_path):
    inputs = keras.Input((5, 5))
    model = keras.Model(inputs, keras.ops.svd(inputs, compute_uv=False), name="singular")
    with pytest.raises(ValueError, match="cannot convert the model 'singular'"):
        kt.export.onnx(model, tmp_path / "model.onnx", verify=False)
    assert list(tmp_path.iterdir()) == []


def test_only_onnx_is_overwritten(tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    (tmp_path / "text").write_text("precious")
    (tmp_path / "folder").mkdir()
    for name in ("text", "folder"):
        with pytest.raises(ValueError, match="is not an ONNX file of kt.export.onnx"):
            kt.export.onnx(model, tmp_path / name, overwrite=True)
    assert (tmp_path / "text").read_text() == "precious"
    for overwrite in (False, True):
        kt.export.onnx(model, tmp_path / "model.onnx", overwrite=overwrite)
    assert {x.name for x in tmp_path.iterdir()} == {"text", "folder", "model.onnx"}


@pytest.mark.slow
def test_the_runner_runs_steps(decoder_only, tmp_path):
    generator = kt.Generator(decoder_only.model, max_length=7, end_token=3, start_token=2, jit_compile=False)
    kt.export.onnx(generator, tmp_path / "steps", source_length=4, batch_size=2, verify=False)
    runner = kt.export.load(tmp_path / "steps")
    prompts = [[5, 9, 22, 4], [11, 6], []]
    np.testing.assert_array_equal(runner(prompts)["tokens"], generator(prompts)["tokens"])
    np.testing.assert_array_equal(list(runner.stream(prompts[:2])), list(generator.stream(prompts[:2])))
