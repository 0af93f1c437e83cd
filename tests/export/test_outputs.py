"""Every output of a plain model is in its export, in each format, under a name of its own, and compared with Python."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.export import names

pytestmark = pytest.mark.tensorflow
IDS = np.array([[5, 9, 22, 4, 7], [11, 6, 0, 0, 0], [8, 8, 3, 0, 0]], "int32")


def tokens(name="ids"):
    return keras.Input((None,), dtype="int32", name=name)


def encoder(ids, **options):
    layer = kt.EncoderLayer(2, 16, name="encoder")
    return layer(kt.TokenEmbedding(23, 8, name="embedding")(ids), **options)


def two_outputs_of_a_layer():
    ids = tokens()
    return keras.Model(ids, encoder(ids, return_attention_scores=True))


def two_towers():
    query, passage = tokens("query"), tokens("passage")
    ids = tokens()
    tower = keras.Model(ids, keras.layers.Dense(3, name="out")(encoder(ids)), name="tower")
    return keras.Model([query, passage], [tower(query), tower(passage)])


def names_of_a_dict():
    ids = tokens()
    x = encoder(ids)
    return keras.Model(ids, {"topic": keras.layers.Dense(3)(x), "tags": keras.layers.Dense(5)(x)})


def nested():
    ids = tokens()
    x, scores = encoder(ids, return_attention_scores=True)
    dense = keras.layers.Dense(3, name="dense")
    return keras.Model(ids, [dense(x), {"a": {"x": x, "dense": dense(x[:, :1])}, "b": [scores, (dense(-x),)]}])


def model_with_two_outputs_within():
    ids = tokens()
    x = kt.TokenEmbedding(23, 8)(ids)
    hidden = keras.Input((None, 8))
    inner = keras.Model(hidden, [keras.layers.Dense(3)(hidden), keras.layers.Dense(5)(hidden)], name="inner")
    return keras.Model(ids, [*inner(x), *inner(-x)])


def names_of_inputs():
    ids = tokens()
    return keras.Model(ids, {"ids": encoder(ids), "next_ids": kt.TokenEmbedding(23, 5)(ids)})


MODELS = {
    two_outputs_of_a_layer: ["encoder", "encoder_1"],
    two_towers: ["tower", "tower_1"],
    names_of_a_dict: ["tags", "topic"],
    nested: ["dense", "a_dense", "a_x", "b_0", "b_1_0"],
    model_with_two_outputs_within: ["inner", "inner_1", "inner_2", "inner_3"],
    names_of_inputs: ["ids", "next_ids"],
}


def exported(model, format, path, source_length=7, batch_size=2):
    if format == "saved_model":
        kt.export.saved_model(model, path)
    elif format == "litert":
        kt.export.litert(model, path, source_length=source_length, batch_size=batch_size)
    else:
        path = path.with_suffix(".onnx")
        kt.export.onnx(model, path)
    return kt.export.load(path)


def skip_unless_installed(format):
    for package in {"litert": ["ai_edge_litert"], "onnx": ["tf2onnx", "onnxruntime"]}.get(format, []):
        pytest.importorskip(package)


@pytest.mark.parametrize("format", ["saved_model", "litert", pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_every_output_is_there(make, format, tmp_path):
    """More rows than the .tflite file takes at once, shorter than it takes."""
    skip_unless_installed(format)
    model = make()
    inputs = [IDS, IDS[:, ::-1].copy()][: len(model.inputs)]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    expected = keras.tree.flatten(model(inputs))
    outputs = exported(model, format, tmp_path / "export")(inputs)
    assert set(outputs) == set(MODELS[make])
    for name, value in zip(MODELS[make], expected, strict=True):
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "format", ["saved_model", *(pytest.param(x, marks=pytest.mark.slow) for x in ("litert", "onnx"))]
)
@pytest.mark.parametrize("broken", MODELS[nested])
def test_any_output_that_differs_is_noticed(broken, format, tmp_path, monkeypatch):
    """What is traced, for the file, is wrong in one output; what Python computes is right."""
    import tensorflow as tf

    from keras_transformer.export import signatures

    skip_unless_installed(format)
    signature_of = signatures.model_signature

    def break_one(model):
        signature = signature_of(model)

        def function(*values):
            outputs = signature.function(*values)
            wrong = 0.0 if tf.executing_eagerly() else 0.01
            return {**outputs, broken: outputs[broken] + wrong}

        return signature._replace(function=function)

    monkeypatch.setitem(kt.export.__dict__[format].__globals__, "model_signature", break_one)
    with pytest.raises(kt.export.ExportMismatchError, match=f"differs from Python in '{broken}'"):
        exported(nested(), format, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_huge_entries_hide_nothing():
    from keras_transformer.export.agreement import differs

    value = np.random.default_rng(0).normal(size=(7, 11))
    value[:, 5:] = -1e9
    other = value.copy()
    assert not differs(value, other * (1 + 1e-6)).any()
    other[3, 2] += 0.01
    assert np.argwhere(differs(value, other)).tolist() == [[3, 2]]
    assert differs(np.array([2**24 + 1]), np.array([2**24])).all()
    tiny = np.full((3, 5), 1e-3, "float32")
    assert differs(tiny, tiny * 1.1).all()
    assert differs(np.array([1.0, np.nan]), np.array([1.0, np.nan])).tolist() == [False, True]


def test_names_that_signatures_take():
    inputs = [keras.Input((3,), name=name) for name in ("my tokens", "query-ids", "토큰", "9lives", "_x", "my_tokens")]
    model = keras.Model(inputs, keras.layers.Add()(inputs))
    wanted = ["my_tokens_1", "query_ids", "input", "input_9lives", "input_x", "my_tokens"]
    assert names.unique(["d", "d", "d_1", "d"]) == ["d", "d_2", "d_1", "d_3"]
    found = names.input_names(model)
    assert sorted(found) == sorted(wanted) and found[-1] != found[0]


def test_a_sequential_model_and_odd_names(tmp_path):
    model = keras.Sequential([keras.Input((3,), name="my input"), keras.layers.Dense(2, name="my-output")])
    x = np.ones((2, 3), "float32")
    for format in ("saved_model", "litert"):
        skip_unless_installed(format)
        runner = exported(model, format, tmp_path / format)
        assert runner.input_names == ["my_input"]
        np.testing.assert_allclose(runner(x)["my-output"], model(x), rtol=1e-5)
