"""What the inputs of a plain model may be, in each format: names, types, fixed rows; and samples that suit them."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.decoding.program import Program
from keras_transformer.decoding.samples import sample_inputs

from .test_outputs import exported, skip_unless_installed

pytestmark = pytest.mark.tensorflow
FORMATS = pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
PRIMES = [2, 3, 5, 7, 11, 13]


@FORMATS
def test_names_with_another_meaning_elsewhere(format, tmp_path):
    """In Python, in TensorFlow, or in the exports of generators."""
    skip_unless_installed(format)
    names = ["self", "class", "seed", "lengths", "args", "None"]
    inputs = [keras.Input((3,), name=name) for name in names]
    model = keras.Model(inputs, sum(prime * x for prime, x in zip(PRIMES, inputs, strict=True)))
    runner = exported(model, format, tmp_path / "export", source_length=None)
    assert runner.input_names == ["input_self", "input_class", "seed", "lengths", "args", "input_None"]
    values = np.random.default_rng(0).normal(size=(6, 2, 3)).astype("float32")
    (output,) = runner(list(values)).values()
    np.testing.assert_allclose(output, np.einsum("ibd,i->bd", values, PRIMES), rtol=1e-4, atol=1e-5)


def test_a_generator_needs_these_names(tmp_path):
    tokens, lengths = keras.Input((None,), dtype="int32", name="target"), keras.Input((None, 3), name="lengths")
    hidden = kt.DecoderLayer(2, 13)(kt.TokenEmbedding(11, 6)(tokens), keras.layers.Dense(6)(lengths))
    model = keras.Model([lengths, tokens], keras.layers.Dense(11)(hidden))
    generator = kt.Generator(model, max_length=5, start_token=2, end_token=3, jit_compile=False)
    with pytest.raises(ValueError, match=r"inputs \['lengths'\] have names of what an export"):
        kt.export.saved_model(generator, tmp_path / "model")


@FORMATS
def test_truth_values(format, tmp_path):
    """A shorter mask than a file takes is filled up with what is not seen."""
    skip_unless_installed(format)
    features, mask = keras.Input((None, 3), name="features"), keras.Input((None,), dtype="bool", name="mask")
    weights = ops.expand_dims(ops.cast(mask, "float32"), -1)
    model = keras.Model([features, mask], {"sum": ops.sum(features * weights, axis=1), "none": ~ops.any(mask, axis=1)})
    runner = exported(model, format, tmp_path / "export")
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
    seen = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    for given in (seen, seen.astype(int), seen.tolist(), seen.astype("float32")):
        outputs = runner({"features": x, "mask": given})
        np.testing.assert_allclose(outputs["sum"], (x * seen[..., None]).sum(axis=1), rtol=1e-4, atol=1e-5)
        assert outputs["none"].tolist() == [False, True, False] and outputs["none"].dtype == bool
    for wrong in (seen * 2, seen - 0.5, [["yes"] * 5] * 3, [[True], [True, False]]):
        with pytest.raises(ValueError, match="'mask' takes truth values"):
            runner([x, wrong])


@FORMATS
def test_a_fixed_number_of_rows(format, tmp_path):
    skip_unless_installed(format)
    tokens = keras.Input(batch_shape=(3, 5), dtype="int32", name="tokens")
    model = keras.Model(tokens, kt.TokenEmbedding(11, 6)(tokens))
    runner = exported(model, format, tmp_path / "export", source_length=None, batch_size=None)
    ids = np.random.default_rng(0).integers(1, 11, (3, 5))
    (output,) = runner(ids).values()
    np.testing.assert_allclose(output, model(ids), rtol=1e-5)
    if format == "litert":  # takes one batch after another
        (output,) = runner(ids[:2]).values()
        np.testing.assert_allclose(output, model(ids)[:2], rtol=1e-5)
        with pytest.raises(ValueError, match="takes batches of 3 rows, by the shapes of its inputs; batch_size=2"):
            kt.export.litert(model, tmp_path / "other", batch_size=2)
    else:
        with pytest.raises(ValueError, match=r"takes an array of shape \(3, 5\), got shape \(2, 5\)"):
            runner(ids[:2])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": True}, {"source_length": -1}])
def test_sizes_that_are_none(options, classifier, tmp_path):
    with pytest.raises(ValueError, match="is a positive integer, got"):
        kt.export.litert(classifier, tmp_path / "model", **{"source_length": 5, **options})


class Optional(keras.layers.Layer):
    def call(self, x, y=None):
        return x if y is None else x + 2 * y


def test_an_optional_input_stays(tmp_path):
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y", optional=True)
    runner = exported(keras.Model([x, y], Optional()(x, y)), "saved_model", tmp_path / "export")
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    (output,) = runner({"x": x, "y": y}).values()
    np.testing.assert_allclose(output, x + 2 * y, rtol=1e-5)


def test_tensors_that_onnx_would_ask_for(tmp_path):
    """The converter makes inputs of what a layer keeps beside its variables; nobody could give them."""
    skip_unless_installed("onnx")
    inputs = keras.Input((3,), name="x")
    normalize = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])
    with pytest.raises(ValueError, match="it makes inputs of the tensors"):
        kt.export.onnx(keras.Model(inputs, normalize(inputs)), tmp_path / "model.onnx", verify=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("table", [kt.TokenEmbedding, keras.layers.Embedding])
@pytest.mark.parametrize(
    "dtype, function",
    [
        ("float32", lambda x: keras.layers.Lambda(lambda x: ops.cast(x, "int32"))(x)),
        ("float32", lambda x: keras.layers.Rescaling(3)(x)),
        ("float32", lambda x: ops.floor(x / 7)),
        ("int32", lambda x: x - 1),
        ("int32", lambda x: x + 3),
        ("int32", lambda x: ops.minimum(x, 4) % 3),
        ("int64", lambda x: 10 - x),
    ],
    ids=["cast", "times 3", "divided", "less 1", "more 3", "remainder", "from above"],
)
def test_samples_suit_tables_behind_a_function(dtype, function, table, tmp_path):
    inputs = keras.Input((6,), dtype=dtype, name="x")
    made = function(inputs)
    model = keras.Model(inputs, {"ids": made, "features": table(11, 5)(made)})
    (sample,) = sample_inputs(Program(model), 6, 5).values()
    assert sample.dtype == dtype and len(np.unique(sample)) > 1
    ids = np.asarray(model(sample)["ids"]).astype("int32")
    assert 0 <= ids.min() and ids.max() < 11
    kt.export.saved_model(model, tmp_path / "model")


def test_what_pads_may_be_no_id(tmp_path):
    """A file takes shorter rows only where it can fill them up."""
    skip_unless_installed("litert")
    inputs = keras.Input((None,), dtype="int32", name="x")
    model = keras.Model(inputs, kt.TokenEmbedding(11, 5)(inputs - 1))
    runner = exported(model, "litert", tmp_path / "model")
    ids = np.array([[3, 5, 11, 1, 2, 7, 4]])
    (output,) = runner(ids).values()
    np.testing.assert_allclose(output, model(ids), rtol=1e-5)
    with pytest.raises(ValueError, match=r"the file takes \(7,\) and nothing shorter"):
        runner(ids[:, :5])


def test_samples_of_what_has_no_table():
    pixels, x = keras.Input((7, 5, 3), dtype="uint8", name="pixels"), keras.Input((6,), dtype="int32", name="x")
    mask = keras.Input((6,), dtype="bool", name="mask")
    words = keras.layers.StringLookup(vocabulary=["a", "b", "c"], invert=True)
    found = sample_inputs(Program(keras.Model([pixels, x, mask], [pixels, ops.one_hot(x, 7), mask])), 6, 5)
    assert found[0].max() > 200 and found[1].max() < 7 and len(np.unique(found[1])) > 3
    assert found[2].dtype == bool and 0 < found[2].mean() < 1
    (ids,) = sample_inputs(Program(keras.Model(x, words(x))), 6, 5).values()
    assert set(np.unique(ids)) == {0, 1, 2, 3}
