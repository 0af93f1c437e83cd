"""Subclassed models in a functional one, inputs of any kind, and threads."""

import threading

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_transformer as kt
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.program import without_cudnn
from keras_transformer.decoding.samples import sample_inputs

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

VOCABULARY, DIM, END = 29, 12, 3
PROMPTS = np.array([[2, 5, 4], [7, 0, 0], [9, 2, 0]])


class Decoder(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = kt.TokenEmbedding(VOCABULARY, DIM)
        self.positions = kt.PositionalEncoding()
        self.block = kt.DecoderLayer(2, 7)

    def call(self, ids):
        return self.embedding(self.block(self.positions(self.embedding(ids))), reverse=True)


class Seq2Seq(Decoder):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = kt.EncoderLayer(2, 7)

    def call(self, inputs):
        source, target = inputs
        memory = self.encoder(self.positions(self.embedding(source)))
        return self.embedding(self.block(self.positions(self.embedding(target)), memory), reverse=True)


class HidesAToken(Decoder):
    """A decoder whose attention does not see the token 5."""

    def call(self, ids):
        x = self.positions(self.embedding(ids))
        return self.embedding(self.block(x, mask=ops.not_equal(ids, 5)), reverse=True)


class Counts(Decoder):
    """A decoder that counts the tokens 5 so far."""

    def call(self, ids):
        x = self.positions(self.embedding(ids))
        count = ops.cumsum(ops.cast(ops.equal(ids, 5), x.dtype), axis=1)
        return self.embedding(self.block(x + 0.3 * ops.expand_dims(count, -1)), reverse=True)


def wrap(model, names=("tokens",)):
    inputs = [keras.Input((None,), dtype="int32", name=name) for name in names]
    return keras.Model(inputs, model(inputs if len(inputs) > 1 else inputs[0]))


def test_a_wrapped_decoder_generates_with_and_without_a_cache(roughen, assert_decodes_exactly):
    assert_decodes_exactly(roughen(wrap(Decoder())), caches=(True, False), max_length=7)


@pytest.mark.filterwarnings("ignore")
def test_a_wrapped_encoder_decoder_generates_without_a_cache(roughen, assert_decodes_exactly):
    model = roughen(wrap(Seq2Seq(name="whole"), ("source", "target")))
    sources = np.array([[5, 9, 4, 22], [8, 3, 0, 0], [6, 6, 17, 0]])
    assert_decodes_exactly(
        model, sources, PROMPTS, inputs=lambda tokens: [sources, tokens], caches=(False,), max_length=7
    )
    with pytest.raises(ValueError, match="(?s)'whole'.*cache=False"):
        kt.Generator(model, max_length=7, end_token=END)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [HidesAToken, Counts])
def test_what_a_wrapped_model_does_to_some_tokens_is_seen(kind, roughen, assert_decodes_exactly):
    model = roughen(wrap(kind(name="whole")))
    with pytest.raises(ValueError, match="(?s)'whole'.*cache=False"):
        kt.Generator(model, max_length=7, end_token=END)
    assert_decodes_exactly(model, caches=(False,), max_length=7)


@pytest.mark.parametrize("cache", [True, False])
def test_contrastive_search_says_what_it_lacks(cache):
    with pytest.raises(ValueError, match="ContrastiveSearch compares the vectors"):
        kt.Generator(wrap(Decoder()), max_length=7, end_token=END, cache=cache, strategy=kt.ContrastiveSearch())


def test_an_embedding_alone_generates_without_a_cache(roughen, assert_decodes_exactly):
    tokens = keras.Input((None,), dtype="int32")
    model = roughen(keras.Model(tokens, layers.Embedding(VOCABULARY, VOCABULARY)(tokens)))
    assert_decodes_exactly(model, caches=(True, False), max_length=7)


# Inputs


def encoder_decoder(source, ids, roughen):
    target = keras.Input((None,), dtype="int32", name="target")
    memory = kt.EncoderLayer(2, 7)(kt.TokenEmbedding(23, DIM)(ids))
    y = kt.DecoderLayer(2, 7)(kt.PositionalEncoding()(kt.TokenEmbedding(VOCABULARY, DIM)(target)), memory)
    return roughen(keras.Model([source, target], layers.Dense(VOCABULARY)(y)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("length", [None, 6])
def test_ids_that_come_as_floats(length, roughen, assert_decodes_exactly):
    source = keras.Input((length,), name="source")
    model = encoder_decoder(source, source, roughen)
    sources = np.array([[5, 9, 4, 22, 3, 0], [8, 3, 0, 0, 0, 0], [6, 6, 17, 0, 0, 0]])
    assert_decodes_exactly(model, sources, PROMPTS, inputs=lambda tokens: [sources, tokens], max_length=7)


@pytest.mark.filterwarnings("ignore:.*padding mask was dropped")
def test_samples_are_what_their_reader_wants():
    floats, part = keras.Input((6,), name="floats"), keras.Input((2,), dtype="int32", name="part")
    target = keras.Input((None,), dtype="int32", name="target")
    ids = ops.cast(floats, "int32")[:, :4]
    memory = ops.concatenate([kt.TokenEmbedding(5, DIM)(ids), layers.Embedding(3, DIM)(part[:, 1:])], axis=1)
    y = kt.DecoderLayer(2, 7)(kt.TokenEmbedding(VOCABULARY, DIM)(target), memory)
    graph = Graph(keras.Model([floats, part, target], layers.Dense(VOCABULARY)(y)))
    samples = sample_inputs(graph, 11, 40)
    assert set(np.unique(samples[0])) == {1, 2, 3, 4} and samples[0].dtype == "float32"
    assert set(np.unique(samples[1])) == {1, 2}
    assert graph.vocabulary_limits().keys() == {graph.target}  # of a part of an input nothing is said


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_lookups_in_front_of_the_encoder(roughen, assert_decodes_exactly):
    number = keras.Input((None,), dtype="int32", name="number")
    numbers = layers.IntegerLookup(vocabulary=[100, 200, 300], mask_token=0)
    model = encoder_decoder(number, numbers(number), roughen)
    sources = np.array([[100, 300, 0], [200, 0, 0], [700, 100, 100]])
    assert_decodes_exactly(model, sources, PROMPTS, inputs=lambda tokens: [sources, tokens], max_length=7)
    assert set(np.unique(sample_inputs(Graph(model), 9, 9)[0])) == {100, 200, 300}

    hashed = keras.Input((None,), dtype="int32", name="hashed")
    model = encoder_decoder(hashed, layers.Hashing(20)(hashed), roughen)
    assert_decodes_exactly(model, sources, PROMPTS, inputs=lambda tokens: [sources, tokens], max_length=7)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["words", "text"])
def test_generators_of_models_that_read_strings(kind, roughen):
    if kind == "words":
        words = keras.Input((None,), dtype="string", name="words")
        ids = layers.StringLookup(vocabulary=["good", "bad", "film"], mask_token="")(words)
        sources, other = [["good", "film"]], [["bad", "film"]]
    else:
        words = keras.Input((), dtype="string", name="text")
        ids = layers.TextVectorization(vocabulary=["good", "bad", "film"])(words)
        sources, other = ["good film"], ["bad film"]
    model = encoder_decoder(words, ids, roughen)
    generator = kt.Generator(model, max_length=7, start_token=2, end_token=END)
    memory = generator.graph.encode({0: ops.convert_to_tensor(np.array(sources, object))})
    logits = generator.graph.decode(ops.convert_to_tensor(PROMPTS[:1]), memory)[generator.graph.output]
    expected = model([ops.convert_to_tensor(np.array(sources, object)), ops.convert_to_tensor(PROMPTS[:1])])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    memory = generator.graph.encode({0: ops.convert_to_tensor(np.array(other, object))})
    assert np.abs(generator.graph.decode(PROMPTS[:1], memory)[generator.graph.output] - expected).max() > 1e-3
    samples = sample_inputs(generator.graph, 4, 8)[0]
    assert {word for entry in samples.ravel() for word in entry.split()} == {"good", "bad", "film"}


# Threads


def test_cudnn_is_given_back_after_threads():
    x = keras.Input((None, DIM))
    inner = layers.GRU(5, return_sequences=True)
    y = layers.Bidirectional(layers.LSTM(5, use_cudnn=True, return_sequences=True))(inner(x))
    model = keras.Model(x, y)
    barrier, seen = threading.Barrier(3), []

    def enter(number):
        for _ in range(5):
            barrier.wait()
            with without_cudnn(model):
                barrier.wait()  # all are within
                seen.append(inner.use_cudnn)
                barrier.wait()
            barrier.wait()
            seen.append(inner.use_cudnn == "auto")

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.use_cudnn == "auto"
    assert [part.use_cudnn for part in (model.layers[-1].forward_layer, model.layers[-1].backward_layer)] == [True] * 2
    assert seen.count(False) == 15 and seen.count(True) == 15
