"""Keras' layers for strings in a model, and in front of one: what a server is given text for."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .conftest import SIZES, roughen

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow
WORDS = ["good", "bad", "film", "a", "very"]
TEXTS = ["a very good film", "bad", "a dog"]


def classifier_of_texts():
    text = keras.Input((1,), dtype="string", name="text")
    vectorize = keras.layers.TextVectorization(vocabulary=WORDS, output_sequence_length=6)
    return text, vectorize(text), vectorize.vocabulary_size(), np.array(TEXTS, object)[:, None]


def hashed_words():
    words = keras.Input((3,), dtype="string", name="words")
    return words, keras.layers.Hashing(50)(words), 50, np.array([["a", "b", "c"], ["d", "", "a"]], object)


def looked_up_words():
    words = keras.Input((None,), dtype="string", name="words")
    lookup = keras.layers.StringLookup(vocabulary=WORDS, mask_token="")
    return words, lookup(words), lookup.vocabulary_size(), np.array([["a", "film"], ["dog", ""]], object)


def looked_up_numbers():
    user = keras.Input((None,), dtype="int64", name="user")
    lookup = keras.layers.IntegerLookup(vocabulary=[100, 2**40, 300], mask_token=0)
    return user, lookup(user), lookup.vocabulary_size(), np.array([[100, 300, 7], [2**40, 0, 0]])


@pytest.mark.parametrize("make", [classifier_of_texts, hashed_words, looked_up_words, looked_up_numbers])
def test_a_model_that_looks_up(make, tmp_path):
    inputs, ids, size, values = make()
    x = kt.EncoderLayer(2, 13)(kt.TokenEmbedding(size, 8)(ids))
    model = keras.Model(inputs, {"classes": keras.layers.Dense(3)(x), "ids": ids})
    kt.export.saved_model(model, tmp_path / "model")
    expected = model(tf.constant(values))
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](tf.constant(values))
    given = [values, values.tolist()] + ([TEXTS] if make is classifier_of_texts else [])
    for outputs in (served, *map(kt.export.load(tmp_path / "model"), given)):
        np.testing.assert_array_equal(outputs["ids"], expected["ids"])
        np.testing.assert_allclose(outputs["classes"], expected["classes"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_generator_that_looks_its_source_up(tmp_path):
    user, ids = keras.Input((None,), dtype="int32", name="user"), keras.Input((None,), dtype="int32", name="ids")
    lookup = keras.layers.IntegerLookup(vocabulary=[100, 200, 300], mask_token=0)
    memory = kt.EncoderLayer(2, 13)(kt.TokenEmbedding(6, 8)(lookup(user)))
    x = kt.DecoderLayer(2, 13)(kt.TokenEmbedding(23, 8)(ids), memory)
    model = roughen(keras.Model([user, ids], keras.layers.Dense(23)(x)))
    generator = kt.Generator(model, max_length=6, start_token=2, end_token=3, jit_compile=False)
    kt.export.saved_model(generator, tmp_path / "model")
    users = np.array([[100, 300], [200, 7]])
    outputs = kt.export.load(tmp_path / "model")(users)
    np.testing.assert_array_equal(outputs["tokens"], generator(users)["tokens"])


class Shout(keras.layers.Layer):
    """A layer of weights that owns a table, and gives ids in rows of their own lengths."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(1,), initializer="ones")
        keys, values = tf.constant(["A", "B", "C"]), tf.constant([4, 5, 6], tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 1)

    def call(self, strings):
        ids = self.table.lookup(tf.strings.unicode_split(tf.strings.upper(strings), "UTF-8").flat_values)
        counts = tf.strings.length(strings, "UTF8_CHAR")
        return tf.RaggedTensor.from_row_lengths(tf.cast(tf.cast(ids, tf.float32) * self.scale, tf.int32), counts)


def vectorizer(**options):
    return keras.layers.TextVectorization(vocabulary=WORDS, **options)


@pytest.mark.parametrize(
    "make",
    [vectorizer, lambda: vectorizer(ragged=True), lambda: keras.Sequential([vectorizer()]), Shout],
    ids=["padded", "ragged", "sequential", "with a table and weights"],
)
def test_any_layer_that_makes_ids_is_a_source_tokenizer(make, tmp_path):
    """It works in the graph only, and there it does for the runner, too."""
    tokenizer = make()
    texts = ["abc", "b", "cab"] if make is Shout else TEXTS
    model = roughen(kt.models.encoder_classifier(7, 3, **SIZES))
    kt.export.saved_model(model, tmp_path / "model", source_tokenizer=tokenizer, samples=texts)
    ids = tokenizer(tf.constant(texts))
    ids = ids.to_tensor() if isinstance(ids, tf.RaggedTensor) else ids
    expected = model(ids)
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    runner = kt.export.load(tmp_path / "model")
    for outputs in (serve(text=tf.constant(texts)), runner(texts), runner(np.asarray(ids))):
        np.testing.assert_allclose(outputs["classes"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_texts_to_a_generator_whose_tokenizer_is_in_the_graph(encoder_decoder, tmp_path):
    tokenizer = vectorizer()
    kt.export.saved_model(encoder_decoder, tmp_path / "model", source_tokenizer=tokenizer, streaming=True)
    runner = kt.export.load(tmp_path / "model")
    ids = np.asarray(tokenizer(tf.constant(TEXTS)))
    np.testing.assert_array_equal(runner(TEXTS)["tokens"], encoder_decoder(ids)["tokens"])
    np.testing.assert_array_equal(list(runner.stream(TEXTS)), list(encoder_decoder.stream(ids)))


@pytest.mark.parametrize(
    "tokenizer, message",
    [
        (lambda texts: [[4]], "a source_tokenizer is a layer"),
        (keras.layers.TextVectorization(vocabulary=WORDS, output_mode="multi_hot"), "output_mode='multi_hot'"),
        (keras.layers.StringLookup(vocabulary=WORDS), r"gives int64 of shape \(\d,\)"),
        (keras.layers.TextVectorization(vocabulary=[str(i) for i in range(99)]), "has 101 ids.* vocabulary 29"),
    ],
)
def test_what_is_no_source_tokenizer(tokenizer, message, classifier, tmp_path):
    with pytest.raises(ValueError, match=message):
        kt.export.saved_model(classifier, tmp_path / "model", source_tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []
