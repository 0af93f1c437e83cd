"""What a Generator cannot work with is answered with a ValueError that says what it got and what it takes."""

import keras
import numpy as np
import pytest

import keras_transformer as kt


def language_model_with(outputs=None):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.DecoderLayer(2, 13)(kt.TokenEmbedding(17, 20)(tokens))
    logits = keras.layers.Dense(17, name="logits")(x)
    return keras.Model(tokens, logits if outputs is None else outputs(tokens, x, logits))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = language_model_with()

    def call(self, tokens):
        return self.inner(tokens)


MODELS = {
    "subclassed": (Subclassed, "takes a functional model.*got Subclassed"),
    "not a model": (lambda: keras.layers.Dense(3), "takes a functional model.*got Dense"),
    "rank two": (lambda: language_model_with(lambda t, x, y: y[:, -1]), r"\(batch, length, vocabulary\), got"),
    "two outputs": (lambda: language_model_with(lambda t, x, y: [y, x]), r"one output.*got"),
    "no vocabulary size": (
        lambda: language_model_with(lambda t, x, y: keras.ops.matmul(y, keras.ops.swapaxes(y, 1, 2))),
        "vocabulary",
    ),
    "independent of the target": (lambda: source_model(target=False), "does not depend on its input 'target'"),
}


def source_model(target=True):
    inputs = [keras.Input((None,), dtype="int32", name=name) for name in ("source", "target")]
    memory = kt.EncoderLayer(2, 13)(kt.TokenEmbedding(13, 20)(inputs[0]))
    y = kt.DecoderLayer(2, 13)(kt.TokenEmbedding(17, 20)(inputs[1]), memory)
    return keras.Model(inputs, keras.layers.Dense(17)(y if target else memory))


@pytest.mark.parametrize("kind", MODELS)
def test_model(kind):
    make, message = MODELS[kind]
    with pytest.raises(ValueError, match=message):
        kt.Generator(make(), max_length=7, end_token=3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"end_token": 17}, "0 to 16 as end_token.*got 17"),
        ({"end_token": True}, "as end_token.*got True"),
        ({"end_token": [3, 17]}, "0 to 16 as end_token.*got 17"),
        ({"end_token": []}, "no id in end_token.*end_token=None"),
        ({"end_token": "3"}, "as end_token.*got '3'"),
        ({"end_token": [3, True]}, "as end_token.*got True"),
        ({"end_token": np.array([3.0])}, "as end_token.*got 3.0"),
        ({"end_token": [[3], [5]]}, r"as end_token.*got \[3\]"),
        ({"processors": kt.RepetitionPenalty(1.2)}, "list of functions as processors, got RepetitionPenalty"),
        ({"processors": None}, "list of functions as processors, got None"),
        ({"start_token": 0}, "start_token=0, which TokenEmbedding .* hides as padding"),
        ({"start_token": -1}, "0 to 16 as start_token.*got -1"),
        ({"start_token": [2, 3]}, "as start_token"),
        ({"padding_id": 17}, "0 to 16 as padding_id.*got 17"),
        ({"padding_id": 5}, "TokenEmbedding .* hides id 0 .* padding_id=5"),
        ({"padding_id": None}, "TokenEmbedding .* hides id 0 .* padding_id=None"),
        ({"max_length": 0}, "positive integer as max_length, got 0"),
        ({"max_length": 2.5}, "positive integer as max_length, got 2.5"),
        ({"strategy": "greedy"}, "strategy such as Greedy.*'greedy'"),
        ({"target_input": "targets"}, r"no input 'targets'.*\['tokens'\]"),
    ],
)
def test_argument(arguments, message, decoder_only):
    with pytest.raises(ValueError, match=message):
        kt.Generator(decoder_only.model, **{"max_length": 7, "end_token": 3, **arguments})


@pytest.fixture(scope="module")
def decoder_only():
    return kt.Generator(language_model_with(), max_length=7, end_token=3)


@pytest.fixture(scope="module")
def encoder_decoder():
    return kt.Generator(source_model(), max_length=7, end_token=3, cache=False)


@pytest.mark.parametrize(
    "prompts, message",
    [
        ([[2, 5], [0, 0]], r"rows \[1\] are empty.*start_token"),
        (np.zeros((2, 0), "int32"), r"rows \[0, 1\] are empty"),
        ([[2, 0, 5]], "padded on the right only"),
        ([[0, 5]], "padded on the right only"),
        ([[1] * 8], "has 8 tokens; max_length, 7"),
        ([[2, 17]], "ids from 2 to 17; TokenEmbedding .* takes ids from 0 to 16"),
        ([[2, -1]], "ids from -1 to 2"),
        ([2, 5], r"\(batch, length\).*got shape \(2,\)"),
        ([[2.0, 5.0]], "integers.*float"),
        ([["2", "5"]], "integers"),
        (None, "neither a prompt nor"),
        ({"token": [[2]]}, "token"),
    ],
)
def test_prompt(prompts, message, decoder_only):
    with pytest.raises(ValueError, match=message):
        decoder_only(prompts)


SOURCE = np.array([[5, 2], [7, 0]])


@pytest.mark.parametrize(
    "sources, prompts, message",
    [
        (SOURCE, None, "neither a prompt nor, when it was made, a start_token"),
        (SOURCE, [[2], [0]], r"rows \[1\] are empty"),
        (SOURCE, [[2]], "1 prompts for 2 rows"),
        (SOURCE + 8, [[2], [2]], "'source' has ids from 8 to 15; TokenEmbedding .* takes ids from 0 to 12"),
        (-SOURCE, [[2], [2]], "'source' has ids from -7 to 0"),
        (SOURCE[0], [[2], [2]], r"'source' has shape \(2,\)"),
        ([SOURCE, SOURCE], [[2], [2]], "'source'|sources"),
        ({}, [[2], [2]], r"the sources \['source'\], got \[\]"),
        ({"source": SOURCE, "other": SOURCE}, [[2], [2]], r"\['other', 'source'\]"),
        (SOURCE.astype("float32"), [[2], [2]], "'source'.*float"),
    ],
)
def test_source(sources, prompts, message, encoder_decoder):
    with pytest.raises(ValueError, match=message):
        encoder_decoder(sources, prompts)


@pytest.fixture(scope="module")
def two_sources():
    inputs = [keras.Input((None,), dtype="int32", name=name) for name in ("left", "right", "target")]
    embedding = kt.TokenEmbedding(17, 20)
    y = embedding(inputs[2])
    for source in inputs[:2]:
        y = kt.DecoderLayer(2, 13)(y, embedding(source))
    model = keras.Model(inputs, embedding(y, reverse=True))
    return kt.Generator(model, max_length=7, end_token=3, start_token=2, cache=False)


@pytest.mark.parametrize(
    "sources, message",
    [
        (SOURCE, r"2 sources \['left', 'right'\], got 1"),
        ([SOURCE, SOURCE, SOURCE], "2 sources .*got 3"),
        ({"left": SOURCE}, r"\['left', 'right'\], got \['left'\]"),
        ([SOURCE, SOURCE[:1]], r"number of rows: \[1, 2\]"),
    ],
)
def test_sources_in_number(sources, message, two_sources):
    with pytest.raises(ValueError, match=message):
        two_sources(sources)


def test_model_that_broke_after_the_generator_was_made(decoder_only):
    kernel = decoder_only.model.get_layer("logits").kernel
    before = keras.ops.convert_to_numpy(kernel)
    assert decoder_only([[2, 5]])["lengths"].shape == (1, 1)
    kernel.assign(np.full_like(before, np.nan))
    try:
        with pytest.raises(ValueError, match=r"NaN logits for the rows \[0\]"):
            decoder_only([[2, 5]])
    finally:
        kernel.assign(before)
