"""A .tflite file answers what Python answers, in a process that has ai-edge-litert and NumPy only."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .conftest import OPTIONS, once

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def folder(exports, encoder_decoder, decoder_only, classifier):
    """One file of each subject; that of the classifier takes two rows at a time."""
    once(kt.export.litert, encoder_decoder, exports / "encoder_decoder.tflite", source_length=7)
    once(kt.export.litert, decoder_only, exports / "decoder_only.tflite", source_length=7)
    once(kt.export.litert, classifier, exports / "classifier.tflite", source_length=7, batch_size=2)
    return exports


def test_answers_as_python_does_in_a_process_without_tensorflow(folder, answers, bare_process):
    bare_process(
        """
        import os
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter

        for name, subject in data["answers"].items():
            plain = name == "classifier"
            interpreter = Interpreter(model_path=os.path.join(data["folder"], name + ".tflite"))
            run = interpreter.get_signature_runner("serving_default" if plain else "generate")
            assert list(run.get_input_details()) == [subject["input"]], name
            for case in subject["cases"]:
                for row, ids in enumerate(case["ids"]):
                    padded = np.array([ids + [0] * (7 - len(ids))] * (2 if plain else 1), np.int32)
                    outputs = run(**{subject["input"]: padded})
                    assert set(outputs) == set(case["outputs"]), (name, set(outputs))
                    for key, expected in case["outputs"].items():
                        np.testing.assert_allclose(
                            outputs[key][0], expected[row], rtol=1e-4, atol=1e-4, err_msg=f"{name} {key} {ids}"
                        )
        assert sys.modules["tensorflow"] is None
        """,
        {"folder": str(folder), "answers": answers},
        without=["tensorflow", "keras", "keras_transformer"],
    )


@pytest.mark.parametrize("name", ["encoder_decoder", "decoder_only", "classifier"])
def test_operators_are_builtin(name, folder):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs((folder / f"{name}.tflite").read_bytes())
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    assert len(codes) > 5
    custom = [code.CustomCode() for code in codes if code.BuiltinCode() == schema.BuiltinOperator.CUSTOM]
    assert not custom


@pytest.mark.parametrize("subject", ["encoder_decoder", "decoder_only", "classifier"])
def test_source_length_is_needed(subject, request, tmp_path):
    with pytest.raises(ValueError, match="source_length"):
        kt.export.litert(request.getfixturevalue(subject), tmp_path / "model.tflite")


def test_source_length_beyond_max_length_of_a_decoder_only_model(decoder_only, tmp_path):
    with pytest.raises(ValueError, match="max_length"):
        kt.export.litert(decoder_only, tmp_path / "model.tflite", source_length=12)


def test_op_that_litert_lacks(tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.ops.erf(keras.layers.Dense(3)(inputs)), name="bell")
    with pytest.raises(ValueError, match="'bell' needs ops that LiteRT has no builtin for.*\n?.*[Ee]rf"):
        kt.export.litert(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_plain_model_of_several_inputs_and_known_shapes(tmp_path):
    left, right = keras.Input((5,), name="left"), keras.Input((3,), name="right")
    model = keras.Model({"a": right, "b": left}, {"sum": keras.layers.Dense(2)(left) + keras.layers.Dense(2)(right)})
    kt.export.litert(model, tmp_path / "model.tflite", batch_size=3)
    from ai_edge_litert.interpreter import Interpreter

    inputs = {"left": np.ones((3, 5), "float32"), "right": np.full((3, 3), 2, "float32")}
    (output,) = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner("serving_default")(**inputs).values()
    expected = model({"a": inputs["right"], "b": inputs["left"]})["sum"]
    np.testing.assert_allclose(output, expected, rtol=1e-5)


def test_what_the_steps_take_and_give_is_what_litert_js_can_handle(encoder_decoder, tmp_path):
    """No booleans; no output that is an input or a constant, and no tensor that is two outputs."""
    from ai_edge_litert import schema_py_generated as schema

    generator = kt.Generator(encoder_decoder.model, max_length=7, strategy=kt.BeamSearch(3), **OPTIONS)
    kt.export.litert(generator, tmp_path / "beam.tflite", source_length=5, layout="step", verify=False)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((tmp_path / "beam.tflite").read_bytes()))
    assert {signature.signatureKey for signature in model.signatureDefs} == {
        b"encode",
        b"prefill_7",
        b"decode",
        b"finish",
    }
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        inputs, outputs = ([x.tensorIndex for x in side] for side in (signature.inputs, signature.outputs))
        types = {graph.tensors[place].type for place in [*inputs, *outputs]}
        assert types <= {schema.TensorType.FLOAT32, schema.TensorType.INT32}
        computed = {place for operator in graph.operators for place in operator.outputs}
        assert set(outputs) <= computed
        assert len(set(outputs)) == len(outputs)


def test_pooling_over_real_tokens(tmp_path):
    """A row without a token gives zeros there, too."""
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = kt.TokenEmbedding(11, 7)(tokens)
    pooled = keras.layers.Concatenate()([kt.MaskedPooling(mode)(x) for mode in ("mean", "max")])
    model = keras.Model(tokens, pooled)
    kt.export.litert(model, tmp_path / "model.tflite", batch_size=2)
    from ai_edge_litert.interpreter import Interpreter

    rows = np.array([[3, 7, 2, 0, 0], [0, 0, 0, 0, 0]], "int32")
    (output,) = (
        Interpreter(str(tmp_path / "model.tflite")).get_signature_runner("serving_default")(tokens=rows).values()
    )
    np.testing.assert_allclose(output, model(rows), rtol=1e-5)
    assert not output[1].any()


def test_patches_and_strided_convolutions_keep_the_mask(tmp_path):
    """From samples to one vector: a sound padded in the file is what it is alone in Python."""
    sound = keras.Input((None,), name="sound")
    x = kt.LogMelSpectrogram(7, None, sampling_rate=800, frame_length=20, stride=8, mask_zero=True)(sound)
    x = kt.PatchEmbedding(11, 2)(kt.ConvolutionalSubsampling(13, (1, 2), activation="gelu")(x))
    model = keras.Model(sound, kt.MaskedPooling()(kt.EncoderLayer(1, 5)(x)))
    kt.export.litert(model, tmp_path / "model.tflite", source_length=160, batch_size=2)
    rows = np.random.default_rng(0).normal(size=(2, 160)).astype("float32")
    rows[1, 96:] = 0
    (output,) = kt.export.load(tmp_path / "model.tflite")(rows).values()
    np.testing.assert_allclose(output[0], np.asarray(model(rows[:1]))[0], atol=1e-5)
    np.testing.assert_allclose(output[1], np.asarray(model(rows[1:, :96]))[0], atol=1e-5)
