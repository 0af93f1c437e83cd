"""Remat: the numbers of the layers alone, dropout included; less memory; the same model outside of training."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.training import Remat, SequenceCrossentropy


def build(wrap):
    source, target = (keras.Input((None,), dtype="int32") for _ in range(2))
    x = wrap(kt.EncoderLayer(2, 16, dropout=0.3, attention_dropout=0.2))(kt.TokenEmbedding(11, 8)(source))
    y = wrap(kt.DecoderLayer(2, 16, dropout=0.3))(kt.TokenEmbedding(11, 8)(target), x)
    model = keras.Model([source, target], keras.layers.Dense(11)(y))
    model.compile(keras.optimizers.SGD(0.5), SequenceCrossentropy())
    return model


def data():
    generator = np.random.default_rng(1)
    source, target, labels = (generator.integers(1, 11, (6, length)) for length in (7, 5, 5))
    source[:2, 4:] = 0
    target[3, 2:] = 0
    return [source, target], labels


def numbers(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def both():
    plain, wrapped = build(lambda layer: layer), build(Remat)
    for variable, value in zip(wrapped.variables, numbers(plain.variables), strict=True):
        variable.assign(value)
    return plain, wrapped


@pytest.fixture(scope="module")
def models():
    return both()


def test_trains_as_the_layers_alone(models, assert_close):
    plain, wrapped = models
    before = numbers(plain.variables)
    inputs, labels = data()
    losses = [
        model.fit(inputs, labels, batch_size=3, shuffle=False, epochs=2, verbose=0).history["loss"] for model in models
    ]
    # The updates are half the gradients; dropout's seeds move on as they do without.
    assert_close(losses[1], losses[0], 1e-6)
    assert_close(numbers(wrapped.variables), numbers(plain.variables), 1e-6)
    assert all((old != new).any() for old, new in zip(before, numbers(plain.variables), strict=True))


def test_a_part_that_is_trained_of_a_frozen_layer(assert_close):
    models, (inputs, labels), moved = both(), data(), []
    for model in models:
        (block,) = (x for x in model._flatten_layers() if isinstance(x, kt.DecoderLayer))
        block.trainable = False
        block.feed_forward.inner.trainable = True
        model.compile(keras.optimizers.SGD(0.5), SequenceCrossentropy())
        before = numbers(block.weights)
        model.fit(inputs, labels, batch_size=3, shuffle=False, verbose=0)
        moved.append([(old != new).any() for old, new in zip(before, numbers(block.weights), strict=True)])
    assert sum(moved[0]) >= 2 and moved[0] == moved[1]
    assert_close(numbers(models[1].variables), numbers(models[0].variables), 1e-6)


@pytest.mark.long
def test_is_the_layer_outside_of_training(models, tmp_path, assert_close):
    plain, wrapped = models
    inputs, _ = data()
    expected = plain.predict(inputs, verbose=0)
    assert_close(wrapped.predict(inputs, verbose=0), expected)
    wrapped.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras").predict(inputs, verbose=0), expected)
    generated = [
        kt.Generator(model, max_length=5, start_token=1, end_token=2)(inputs[0][:2])["tokens"] for model in models
    ]
    np.testing.assert_array_equal(*generated)


def test_keeps_half_precision_where_the_layer_does(assert_close):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = kt.EncoderLayer(2, 16, dropout=0.3)
    wrapped = Remat(kt.EncoderLayer(2, 16, dropout=0.3))
    x = np.random.default_rng(1).normal(size=(3, 5, 8)).astype("float32")
    layer(x), wrapped(x)
    for variable, value in zip(wrapped.variables, numbers(layer.variables), strict=True):
        variable.assign(value)
    expected, outputs = layer(x, training=True), wrapped(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert_close(outputs, expected, 0)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX shows what is kept for the backward pass")
def test_keeps_less_for_the_backward_pass():
    import jax

    def kept(wrap):
        tokens = keras.Input((None,), dtype="int32")
        x = kt.TokenEmbedding(11, 16)(tokens)
        for _ in range(3):
            x = wrap(kt.DecoderLayer(2, 64, dropout=0.1))(x)
        model = keras.Model(tokens, keras.layers.Dense(11)(x))
        trainable, state = ([v.value for v in x] for x in (model.trainable_variables, model.non_trainable_variables))
        ids = np.ones((16, 64), "int32")
        _, backward = jax.vjp(lambda values: model.stateless_call(values, state, ids, training=True)[0], trainable)
        return sum(x.nbytes for x in jax.tree.leaves(backward))

    assert kept(Remat) < 0.2 * kept(lambda layer: layer)


def test_takes_encoder_and_decoder_layers_only():
    with pytest.raises(ValueError, match="takes an EncoderLayer or a DecoderLayer"):
        Remat(keras.layers.Dense(3))
