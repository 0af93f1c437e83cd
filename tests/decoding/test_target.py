"""Which input takes the target tokens is found in the graph, whatever it is called and wherever it stands."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding.graph import Graph


def inputs(*names):
    return [keras.Input((None,), dtype="int32", name=name) for name in names]


def encoder_decoder(source_name, target_name, arrange):
    source, target = inputs(source_name, target_name)
    memory = kt.EncoderLayer(2, 11)(kt.TokenEmbedding(13, 8)(source))
    y = kt.DecoderLayer(2, 11)(kt.TokenEmbedding(17, 8)(target), memory)
    y = y + keras.ops.expand_dims(keras.layers.Dense(8)(kt.MaskedPooling()(memory)), 1)
    return keras.Model(arrange(source, target), keras.layers.Dense(17)(y))


ARRANGE = {
    "list": lambda source, target: [source, target],
    "the target first": lambda source, target: [target, source],
    "dict": lambda source, target: {source.name: source, target.name: target},
}
NAMES = [("source", "target"), ("z", "a"), ("a", "z"), ("tokens", "summary"), ("target", "source")]


@pytest.mark.parametrize("arrange", ARRANGE)
@pytest.mark.parametrize("names", NAMES)
def test_is_found_in_the_graph(names, arrange):
    graph = Graph(encoder_decoder(*names, ARRANGE[arrange]))
    assert graph.input_names[graph.target] == names[1]


def test_generates_from_a_dict_of_inputs_whose_target_sorts_first():
    model = encoder_decoder("words", "answer", ARRANGE["dict"])
    generator = kt.Generator(model, start_token=2, end_token=3, max_length=5, jit_compile=False)
    source = np.array([[5, 7, 11]])
    tokens = generator({"words": source})["tokens"][0]
    for length in range(1, 5):
        logits = keras.ops.convert_to_numpy(model({"words": source, "answer": tokens[:, :length]}))[0, -1]
        logits[0] = -np.inf  # padding is never generated
        assert tokens[0, length] == logits.argmax()
        if tokens[0, length] == 3:
            break


def test_positions_and_segments_are_no_tokens():
    tokens, segments, positions = inputs("b", "z", "a")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(17, 8)(tokens), positions=positions)
    x = kt.DecoderLayer(2, 11)(x, segment_ids=segments)
    graph = Graph(keras.Model({"b": tokens, "z": segments, "a": positions}, keras.layers.Dense(17)(x)))
    assert graph.input_names[graph.target] == "b"


def test_attention_of_keras():
    source, target = inputs("z", "a")
    memory, y = (keras.layers.Embedding(17, 8)(x) for x in (source, target))
    y = keras.layers.MultiHeadAttention(2, 3)(y, y, use_causal_mask=True)
    y = keras.layers.MultiHeadAttention(2, 3)(query=y, value=memory)
    graph = Graph(keras.Model({"z": source, "a": target}, keras.layers.Dense(17)(y)))
    assert graph.input_names[graph.target] == "a"


def summed(names, arrange):
    first, second = inputs(*names)
    x = keras.layers.Embedding(17, 8)(first) + keras.layers.Embedding(17, 8)(second)
    return keras.Model(arrange(first, second), keras.layers.Dense(17)(kt.DecoderLayer(2, 11)(x)))


def test_where_the_graph_leaves_it_open_names_decide_then_the_order():
    for names, arrange, expected in [
        (("tokens", "kinds"), ARRANGE["dict"], "tokens"),
        (("kinds", "target"), ARRANGE["dict"], "target"),
        (("one", "other"), ARRANGE["list"], "other"),
    ]:
        graph = Graph(summed(names, arrange))
        assert graph.input_names[graph.target] == expected
    model = summed(("one", "other"), ARRANGE["dict"])
    with pytest.raises(ValueError, match=r"\['one', 'other'\] may be it. Name it: target_input="):
        kt.Generator(model, end_token=3, max_length=5)
    graph = Graph(model, target_input="one")
    assert graph.input_names[graph.target] == "one"
