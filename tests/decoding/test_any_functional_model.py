"""However a functional model is put together, it generates, and is left as it was."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

SOURCES = np.array([[5, 9, 4, 22, 16, 1, 7], [8, 3, 0, 0, 0, 0, 0], [6, 6, 17, 2, 12, 0, 0]])


def encoder_model():
    source = keras.Input((None,), dtype="int32")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(23, 20)(source))
    return keras.Model(source, kt.EncoderLayer(4, 13)(x), name="encoder")


@pytest.mark.long
def test_nested_models(roughen, assert_decodes_exactly):
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    states = keras.Input((None, 20))
    memory_of_states = keras.Input((None, 20))
    decoder = keras.Model([states, memory_of_states], kt.DecoderLayer(4, 13)(states, memory_of_states), name="decoder")
    blocks = keras.Sequential([kt.DecoderLayer(4, 13), keras.layers.Dense(29)], name="blocks")

    y = kt.PositionalEncoding()(kt.TokenEmbedding(29, 20)(target))
    inner = keras.Model([source, target], blocks(decoder([y, encoder_model()(source)])), name="inner")

    again = [keras.Input((None,), dtype="int32", name=name) for name in ("source", "target")]
    model = roughen(keras.Model(again, inner(again), name="outer"))
    assert_decodes_exactly(model, SOURCES, inputs=lambda tokens: [SOURCES, tokens])


def test_layer_called_twice(language_model, assert_decodes_exactly):
    shared = kt.DecoderLayer(4, 13, window=3)
    assert_decodes_exactly(language_model(shared, shared, encoding=kt.PositionalEncoding()))


def test_layer_with_memory_called_twice_on_different_memories(roughen, assert_decodes_exactly):
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(23, 20)(source))
    shared = kt.DecoderLayer(4, 13)
    y = shared(shared(kt.TokenEmbedding(29, 20)(target), x), kt.EncoderLayer(4, 13)(x))
    model = roughen(keras.Model([source, target], keras.layers.Dense(29)(y)))
    assert_decodes_exactly(model, SOURCES, inputs=lambda tokens: [SOURCES, tokens])


def test_models_whose_layers_have_the_same_names(language_model, assert_decodes_exactly):
    def half(name):
        states = keras.Input((None, 20))
        return keras.Model(states, kt.DecoderLayer(4, 13, name="block")(states), name=name)

    assert_decodes_exactly(language_model(half("first"), half("second"), encoding=kt.PositionalEncoding()))


@keras.saving.register_keras_serializable("tests")
class Parallel(keras.layers.Layer):
    """A user's layer around layers of the package: attention and feed-forward side by side."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = kt.MultiHeadSelfAttention(4, causal=True, position=kt.AlibiPosition())
        self.feed_forward = kt.FeedForward(13)

    def call(self, x):
        return x + self.attention(x) + self.feed_forward(x)


@pytest.mark.filterwarnings("ignore:.*padding mask was dropped")
def test_layers_inside_a_layer_of_the_user(language_model, assert_decodes_exactly):
    assert_decodes_exactly(language_model(Parallel(), Parallel()))


@pytest.mark.filterwarnings("ignore:.*padding mask was dropped")
def test_operations_and_arguments_by_keyword(roughen, assert_decodes_exactly):
    target = keras.Input((None,), dtype="int32", name="target")
    source = keras.Input((None,), dtype="int32", name="source")
    memory = encoder_model()(inputs=source)
    y = kt.PositionalEncoding()(inputs=keras.ops.multiply(kt.TokenEmbedding(29, 20)(target), 2.0))
    y, _, _ = kt.DecoderLayer(4, 13)(memory=memory, inputs=y, return_attention_scores=True)
    y = keras.layers.Concatenate()([y, 1.0 - keras.ops.tanh(y)])
    model = roughen(keras.Model({"target": target, "source": source}, keras.layers.Dense(29)(y)))
    assert_decodes_exactly(
        model,
        {"source": SOURCES},
        inputs=lambda tokens: {"source": SOURCES, "target": tokens},
        target_input="target",
    )


@pytest.fixture
def model(language_model):
    return language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))


def test_a_table_of_keras_that_makes_its_mask_as_it_is_called(roughen, assert_decodes_exactly):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    table = keras.layers.ReversibleEmbedding(29, 20, mask_zero=True)
    model = keras.Model(tokens, table(kt.DecoderLayer(4, 13)(table(tokens)), reverse=True))
    assert_decodes_exactly(roughen(model), jit_compile=False)


def test_the_model_is_left_as_it_was(model):
    def nodes():
        return [(layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]

    nodes_before, weights_before = nodes(), model.get_weights()
    outputs = [layer.output for layer in model.layers]
    tokens = np.array([[2, 5, 4]])
    kt.Generator(model, max_length=5, end_token=3)(tokens)
    assert nodes() == nodes_before
    assert all(layer.output is output for layer, output in zip(model.layers, outputs, strict=True))
    for before, after in zip(weights_before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    part = keras.Model(model.input, model.layers[1].output)
    assert part(tokens).shape == (1, 3, 20)


def test_training_after_the_generator_was_made_shows(model):
    generator = kt.Generator(model, max_length=5, end_token=3)
    prompt = np.array([[2]])
    wanted = [[[2, 8, 5, 3, 0]]]
    assert generator(prompt)["tokens"].tolist() != wanted
    model.compile(keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = np.tile([[2, 8, 5, 3]], (4, 1))
    model.fit(tokens[:, :-1], tokens[:, 1:], epochs=15, verbose=0)
    assert generator(prompt)["tokens"].tolist() == wanted


@pytest.mark.long
@pytest.mark.xla
def test_bfloat16(language_model):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))
    result = kt.Generator(model, max_length=7, end_token=3)(np.array([[2, 5], [7, 0], [9, 0]]))
    assert np.isfinite(result["scores"]).all()
    # Of two nearly equal logits either may win; so the tokens are judged by what the full model thinks of them.
    logits = keras.ops.convert_to_numpy(keras.ops.cast(model(result["tokens"][:, 0]), "float32"))
    for row, (tokens, length) in enumerate(zip(result["tokens"][:, 0], result["lengths"][:, 0], strict=True)):
        for position in range(2, length):
            given = logits[row, position - 1]
            assert given[tokens[position]] > given[1:].max() - 0.2
