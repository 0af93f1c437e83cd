"""`attention_weights` gives what each layer attends to, whatever the model is made of, and leaves it as it was."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

SOURCE = np.array([[5, 9, 4, 7, 1], [8, 3, 0, 0, 0]])
TARGET = np.array([[2, 5, 9], [2, 8, 0]])


def encoder(**options):
    tokens = keras.Input((None,), dtype="int32", name="source")
    x = kt.TokenEmbedding(11, 12)(tokens)
    return keras.Model(tokens, kt.EncoderLayer(2, 7, name="reader", **options)(x), name="encoder")


@pytest.fixture
def model():
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory = kt.EncoderLayer(2, 7, name="reader")(kt.TokenEmbedding(11, 12, name="left")(source))
    y = kt.TokenEmbedding(13, 12, name="right")(target)
    y = kt.DecoderLayer(3, 7, name="writer", dropout=0.5, attention_dropout=0.5)(y, memory)
    return keras.Model([source, target], y)


def test_one_entry_for_each_attention_in_the_order_of_the_calls(model):
    weights = kt.attention_weights(model, [SOURCE, TARGET])
    assert {path: (scores.shape, scores.dtype.name) for path, scores in weights.items()} == {
        "reader/self_attention": ((2, 2, 5, 5), "float32"),
        "writer/self_attention": ((2, 3, 3, 3), "float32"),
        "writer/cross_attention": ((2, 3, 3, 5), "float32"),
    }


def test_rows_sum_to_one_and_padding_gets_nothing(model):
    for path, scores in kt.attention_weights(model, [SOURCE, TARGET]).items():
        np.testing.assert_allclose(scores.sum(axis=-1), 1, rtol=1e-5, err_msg=path)
    assert (scores[1, :, :, 2:] == 0).all()


def test_a_row_that_may_attend_to_nothing_sums_to_zero(model):
    weights = kt.attention_weights(model, [np.array([[5, 9, 4], [0, 0, 0]]), TARGET])
    assert (weights["writer/cross_attention"][1] == 0).all()
    np.testing.assert_allclose(weights["writer/cross_attention"][0].sum(axis=-1), 1, rtol=1e-5)


def test_causal_attention_sees_nothing_later(model):
    scores = kt.attention_weights(model, [SOURCE, TARGET])["writer/self_attention"]
    assert (np.triu(scores, 1) == 0).all()


def test_equals_the_scores_that_the_layers_return(model):
    memory, read = model.get_layer("reader")(model.get_layer("left")(SOURCE), return_attention_scores=True)
    _, *written = model.get_layer("writer")(model.get_layer("right")(TARGET), memory, return_attention_scores=True)
    weights = kt.attention_weights(model, [SOURCE, TARGET])
    for actual, expected in zip(weights.values(), [read, *written], strict=True):
        np.testing.assert_allclose(actual, keras.ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-7)


def test_layer_called_twice():
    tokens = keras.Input((None,), dtype="int32")
    x = kt.TokenEmbedding(11, 12)(tokens)
    layer = kt.EncoderLayer(2, 7, name="layer")
    weights = kt.attention_weights(keras.Model(tokens, layer(layer(x))), SOURCE)
    assert list(weights) == ["layer/self_attention", "layer/self_attention:1"]
    assert not np.allclose(*weights.values())


def test_nested_model(model):
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    outer = keras.Model(inputs, keras.layers.Dense(3)(model(inputs)))
    weights = kt.attention_weights(outer, [SOURCE, TARGET])
    expected = kt.attention_weights(model, [SOURCE, TARGET])
    assert list(weights) == list(expected)
    for path in expected:
        np.testing.assert_allclose(weights[path], expected[path], rtol=1e-5)


def test_subclassed_model():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.embedding = kt.TokenEmbedding(11, 12)
            self.attention = kt.MultiHeadSelfAttention(2, name="attention")

        def call(self, tokens):
            return self.attention(self.embedding(tokens))

    ((path, scores),) = kt.attention_weights(Subclassed(), SOURCE).items()
    assert path.endswith("attention")
    assert scores.shape == (2, 2, 5, 5)


def test_grouped_query_weights_are_given_for_each_query_head():
    weights = kt.attention_weights(encoder(num_kv_heads=1), SOURCE)
    assert weights["reader/self_attention"].shape == (2, 2, 5, 5)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    scores = kt.attention_weights(encoder(), SOURCE)["reader/self_attention"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=0.02)


def test_the_model_is_left_as_it_was(model):
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    before = model.get_weights()
    kt.attention_weights(model, [SOURCE, TARGET])
    first = kt.attention_weights(model, [SOURCE, TARGET])
    again = kt.attention_weights(model, [SOURCE, TARGET])
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for path in first:  # no dropout
        np.testing.assert_array_equal(first[path], again[path])


def test_model_without_attention_is_refused():
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, kt.TokenEmbedding(11, 12)(tokens), name="bag")
    with pytest.raises(ValueError, match="'bag' has no attention layer"):
        kt.attention_weights(model, SOURCE)
