"""What layers are told about their weights, by Keras' names: initializers, regularizers, constraints, given tables."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import CATALOGUE, DIM, INNER, VOCABULARY, as_numpy

# What has kernels and biases, in projections or in a recurrent cell.
PROJECTING = [
    name
    for name in CATALOGUE
    if name.startswith(("FeedForward", "MultiHead", "Encoder", "Decoder", "Recurr", "Dot", "Patch", "Convo"))
    and "experts" not in name
]
TABLES = ["TokenEmbedding", "LearnedPositionalEncoding", "ClassToken"]


@keras.saving.register_keras_serializable("test_weights")
def small(shape, dtype=None):
    """An initializer that is a plain function."""
    return ops.cast(0.125, dtype or "float32") * ops.ones(shape, dtype)


@keras.saving.register_keras_serializable("test_weights")
def absolute(x):
    """A regularizer that is a plain function."""
    return 0.5 * ops.sum(ops.abs(x))


def called(name, **options):
    layer, inputs = CATALOGUE[name](**options)
    layer(*inputs)
    return layer, inputs


def option_of(weight) -> str:
    return {"score": "kernel", "recurrent_kernel": "recurrent"}.get(weight.name, weight.name)


def names(name):
    recurrent = ["recurrent"] if name.startswith("Recurrent") else []
    bias = [] if name == "PatchEmbedding, image" else ["bias"]
    return ["embeddings"] if name in TABLES else ["kernel", *bias, *recurrent]


def chosen(layer, name) -> list:
    """The weights that the options of a layer are about; a position has options of its own."""
    return [w for w in layer.weights if option_of(w) in names(name) and "relative_position" not in w.path]


@pytest.mark.parametrize("name", PROJECTING + TABLES)
def test_an_initializer_may_be_a_plain_function(name):
    layer, inputs = called(name, **{f"{x}_initializer": small for x in names(name)})
    clone = type(layer).from_config(layer.get_config())
    clone(*inputs)
    for x in (layer, clone):
        weights = [w for w in chosen(x, name) if not w.path.endswith("lstm_cell/bias")]  # whose forget gates get a one
        assert weights
        assert all((as_numpy(w) == 0.125).all() for w in weights)


@pytest.mark.parametrize("name", PROJECTING + TABLES)
def test_regularizers_reach_each_weight_and_add_up(name, assert_close):
    given = {
        "kernel": keras.regularizers.L2(0.5),
        "bias": "l1",
        "recurrent": absolute,
        "embeddings": keras.regularizers.L1L2(0.1, 0.2),
    }
    ones = {f"{x}_initializer": "ones" for x in names(name) if x == "bias" or name == "ClassToken"}
    layer, inputs = called(name, **ones, **{f"{x}_regularizer": given[x] for x in names(name)})
    functions = {
        "kernel": lambda w: 0.5 * np.square(w).sum(),
        "bias": lambda w: 0.01 * np.abs(w).sum(),
        "recurrent": lambda w: 0.5 * np.abs(w).sum(),
        "embeddings": lambda w: 0.1 * np.abs(w).sum() + 0.2 * np.square(w).sum(),
    }
    clone = type(layer).from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    clone(*inputs)
    clone.set_weights(layer.get_weights())
    weights = chosen(layer, name)
    expected = sum(functions[option_of(w)](as_numpy(w).astype("float64")) for w in weights)
    assert expected > 0.05
    for x in (layer, clone):
        x.trainable = False
        assert x.losses == []
        x.trainable = True
        assert len(x.losses) == len(weights)
        assert_close(sum(float(as_numpy(loss)) for loss in x.losses), expected, 1e-4)


@pytest.mark.parametrize("name", PROJECTING + TABLES)
def test_constraints_hold_after_a_step(name):
    arrays = CATALOGUE[name]()[1]
    options = {f"{x}_constraint": keras.constraints.NonNeg() for x in names(name)}
    layer, _ = CATALOGUE[name](**options)
    layer = type(layer).from_config(layer.get_config())
    symbols = [keras.Input(x.shape[1:], dtype=str(x.dtype)) for x in arrays]
    outputs = layer(*symbols)
    model = keras.Model(symbols, outputs)
    constrained = chosen(layer, name)
    assert constrained and all(isinstance(w.constraint, keras.constraints.NonNeg) for w in constrained)
    assert [w for w in layer.trainable_weights if w.constraint is not None] == constrained
    if name not in ("EncoderLayer", "TokenEmbedding", "RecurrentDecoderLayer"):
        return
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    model.fit(list(arrays), np.zeros(model(list(arrays)).shape), epochs=1, verbose=0)
    assert all((as_numpy(w) >= 0).all() for w in constrained)
    assert any((as_numpy(w) == 0).any() for w in constrained)


@pytest.mark.long
def test_the_losses_of_a_model_are_those_of_its_layers(tmp_path, assert_close):
    ids = keras.Input((None,), dtype="int32")
    embedding = kt.TokenEmbedding(VOCABULARY, DIM, embeddings_regularizer="l2")
    x = kt.LearnedPositionalEncoding(11, embeddings_regularizer="l1")(embedding(ids))
    position = kt.RelativePosition(6, 5, embeddings_regularizer="l2")
    x = kt.EncoderLayer(1, INNER, kernel_regularizer="l2", position=position)(x)
    x = kt.training.Remat(kt.DecoderLayer(1, INNER, bias_regularizer="l1", bias_initializer="ones"))(x)
    model = keras.Model(ids, embedding(x, reverse=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    rules = {"l1": lambda w: 0.01 * np.abs(w).sum(), "l2": lambda w: 0.01 * np.square(w).sum()}
    expected = 0.0
    for weight in model.weights:
        l1 = "learned" in weight.path or ("decoder" in weight.path and weight.name == "bias")
        l2 = weight.name == "embeddings" and "learned" not in weight.path
        l2 = l2 or ("encoder" in weight.path and weight.name == "kernel")
        if l1 or l2:
            expected += rules["l1" if l1 else "l2"](as_numpy(weight))
    for x in (model, loaded):
        assert_close(float(sum(x.losses)), expected, 1e-4)
        x.compile("sgd", kt.training.SequenceCrossentropy(), jit_compile=False)
    tokens = np.array([[4, 5, 6], [7, 8, 9]])
    loss = float(kt.training.SequenceCrossentropy()(tokens, model(tokens)))
    assert_close(model.evaluate(tokens, tokens, verbose=0), loss + expected, 1e-4)


def test_activity_regularizers():
    layer = kt.FeedForward(INNER, activity_regularizer=keras.regularizers.L2(0.5))
    x = np.random.default_rng(1).normal(size=(2, 3, DIM)).astype("float32")
    output = as_numpy(layer(x))
    np.testing.assert_allclose([float(x) for x in layer.losses], [0.5 * np.square(output).sum() / 2], rtol=1e-5)
    assert type(layer).from_config(layer.get_config()).activity_regularizer.l2 == 0.5


def test_given_weights_are_a_table(assert_close):
    table = np.random.default_rng(1).normal(size=(VOCABULARY, DIM)).astype("float32")
    ids = np.array([[4, 5, 22]])
    for weights in (table, [table], (table,)):
        assert_close(kt.TokenEmbedding(VOCABULARY, DIM, weights=weights)(ids), table[ids])
    with pytest.raises(ValueError, match="shape"):
        kt.TokenEmbedding(VOCABULARY, DIM, weights=[table.T])


def test_what_keras_calls_otherwise_is_named():
    with pytest.raises(ValueError, match="padding_id"):
        kt.TokenEmbedding(VOCABULARY, DIM, mask_zero=True)


def test_rematerialization_says_what_it_would_drop():
    layer = kt.EncoderLayer(1, INNER, activity_regularizer="l2")
    with pytest.raises(ValueError, match="Remat\\(layer, activity_regularizer"):
        kt.training.Remat(layer)
