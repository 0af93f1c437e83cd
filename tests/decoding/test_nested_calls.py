"""Models within the model are resolved into their calls: nothing that a call was given is lost on the way."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_transformer as kt
from keras_transformer._keras import get_mask
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.program import Program, run

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

DIM, END = 12, 3
SOURCES = np.array([[5, 9, 4, 22, 16], [8, 3, 0, 0, 0], [6, 6, 17, 0, 0]])
PROMPTS = np.array([[2, 5, 4], [7, 0, 0], [9, 2, 0]])


def states(name=None):
    return keras.Input((None, DIM), name=name)


def nested(function, name=None):
    x = states()
    return keras.Model(x, function(x), name=name)


def embedded(source):
    """Vectors of a source whose padding mask was dropped on the way."""
    return layers.Lambda(lambda x: 1.0 * x)(layers.Embedding(23, DIM)(source))


def encode_by_mask(encoder, source):
    return encoder(embedded(source), mask=ops.not_equal(source, 0))


class PlusMean(layers.Layer):
    """x plus the mean over what its mask leaves, a layer that says what mask it got."""

    def call(self, x, mask=None):
        weights = ops.ones_like(x[..., :1]) if mask is None else ops.expand_dims(ops.cast(mask, x.dtype), -1)
        return x + ops.sum(weights * x, axis=1, keepdims=True) / ops.sum(weights, axis=1, keepdims=True)


ENCODERS = {
    "a mask": lambda source: encode_by_mask(nested(kt.EncoderLayer(2, 7)), source),
    "a mask, in a model in a model": lambda source: encode_by_mask(
        nested(nested(nested(kt.EncoderLayer(2, 7)))), source
    ),
    "a mask, Sequential": lambda source: encode_by_mask(
        keras.Sequential([states(), layers.Dropout(0.5), kt.EncoderLayer(2, 7), layers.LayerNormalization()]), source
    ),
    "a mask, Bidirectional within": lambda source: encode_by_mask(
        nested(layers.Bidirectional(layers.GRU(6, return_sequences=True))), source
    ),
    "a mask, a layer of one's own within": lambda source: encode_by_mask(nested(PlusMean()), source),
    "a mask in a dict": lambda source: (
        keras.Model({"memory": (x := states("memory")), "other": (y := states("other"))}, PlusMean()(x) + PlusMean()(y))
    )(
            {"memory": embedded(source), "other": embedded(source)},
            mask={"memory": ops.not_equal(source, 0), "other": ops.not_equal(source, 9)},
        ),
    "twice, with two masks": lambda source: (
        (encoder := nested(PlusMean())) and ops.add(
            encoder(embedded(source), mask=ops.not_equal(source, 0)),
            encoder(embedded(source), mask=ops.not_equal(source, 9)),
        )
    ),
    "inputs by keyword": lambda source: nested(PlusMean())(
        inputs=embedded(source), mask=ops.not_equal(source, 0)
    ),
    "ids as floats": lambda source: nested_ids("float32")(source),
    "the mask of an embedding in another model": lambda source: kt.EncoderLayer(2, 7)(nested_ids("int32")(source)),
    "training=False over what is recorded within": lambda source: nested(
        lambda x: layers.Dropout(0.9)(x, training=True)
    )(embedded(source), training=False),
}  # fmt: skip


def nested_ids(dtype):
    ids = keras.Input((None,), dtype=dtype)
    return keras.Model(ids, kt.TokenEmbedding(23, DIM)(ids))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ENCODERS)
def test_what_a_nested_model_was_called_with_is_kept(kind, roughen, assert_decodes_exactly):
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    y = kt.PositionalEncoding()(kt.TokenEmbedding(29, DIM)(target))
    y = kt.DecoderLayer(2, 7)(y, ENCODERS[kind](source))
    model = roughen(keras.Model([source, target], layers.Dense(29)(y)))
    assert_decodes_exactly(model, SOURCES, PROMPTS, inputs=lambda tokens: [SOURCES, tokens], max_length=7)


def test_training_goes_to_the_layers_within():
    x = states()
    program = Program(
        keras.Model(x, nested(nested(lambda x: layers.Dense(DIM)(layers.Dropout(0.5)(x))))(x, training=True))
    )
    given = {type(step.operation).__name__: step.kwargs.get("training") for step in program.instructions}
    assert given == {"Dropout": True, "Dense": True if "training" in layers.Dense(1)._call_context_args else None}


class Scaled(keras.Model):
    """A functional model in name, with a call of its own."""

    def call(self, inputs, training=None, mask=None):
        return 3.0 * super().call(inputs, training=training, mask=mask)


class Trained(keras.Model):
    """A functional model with a training step of its own."""

    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.filterwarnings("ignore:.*padding mask was dropped")
def test_a_subclass_with_a_call_of_its_own_is_run_as_it_is(roughen, assert_decodes_exactly):
    x = states()
    for subclass, resolved in ((Scaled, False), (Trained, True)):
        inner = subclass(x, layers.Dense(DIM, activation="tanh")(x))
        tokens = keras.Input((None,), dtype="int32")
        y = kt.DecoderLayer(2, 7)(inner(kt.TokenEmbedding(29, DIM)(tokens)))
        model = roughen(subclass(tokens, layers.Dense(29)(y)) if resolved else keras.Model(tokens, layers.Dense(29)(y)))
        assert any(step.operation is inner for step in Program(model).instructions) != resolved
        assert_decodes_exactly(model, max_length=7)
    with pytest.raises(ValueError, match="functional"):
        kt.Generator(Scaled(tokens, layers.Dense(29)(y)), max_length=7, end_token=END)


@pytest.mark.parametrize("order", [("target", "source"), ("source", "tokens"), ("zebra", "tokens")])
def test_the_input_for_the_target_is_known_by_its_name(order):
    first, second = (keras.Input((None,), dtype="int32", name=name) for name in order)
    source, target = (second, first) if "target" in order else (first, second)
    y = kt.DecoderLayer(2, 7)(kt.TokenEmbedding(29, DIM)(target), kt.TokenEmbedding(23, DIM)(source))
    logits = layers.Dense(29)(y)
    for inputs in ([first, second], {order[0]: first, order[1]: second}):
        graph = Graph(keras.Model(inputs, logits))
        assert graph.input_names[graph.target] == target.name


def test_the_mask_of_a_nested_model_does_not_change_that_of_its_input():
    source = keras.Input((None,), dtype="int32")
    x = kt.TokenEmbedding(23, DIM)(source)
    first = nested(PlusMean())(x, mask=ops.not_equal(source, 9))
    program = Program(keras.Model(source, [first, PlusMean()(x)]))
    values = {0: ops.convert_to_tensor(SOURCES)}
    run(program.instructions, values)
    embedding = next(step for step in program.instructions if isinstance(step.operation, kt.TokenEmbedding))
    np.testing.assert_array_equal(ops.convert_to_numpy(get_mask(values[embedding.outputs[0]])), SOURCES != 0)
