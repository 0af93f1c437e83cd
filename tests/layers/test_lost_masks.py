"""Masks that an operation dropped: what is attended to is what the mask would say, or a warning says that it is."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import as_numpy

VOCABULARY, DIM, LENGTH = 23, 6, 7
IDS = np.array([[5, 9, 4, 22, 0, 0, 0], [8, 3, 0, 0, 0, 0, 0]], "int32")
MASK = IDS != 0
KERAS = keras.layers


def encoder():
    return kt.EncoderLayer(2, 13, name="encoder")


def seen_keys(body, *, length=None):
    """Which keys (B, T) the layer behind `body` attends to, and the messages about masks."""
    ids = keras.Input((length,), dtype="int32")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = body(kt.TokenEmbedding(VOCABULARY, DIM)(ids))
        _, scores = encoder()(x, return_attention_scores=True)
        weights = as_numpy(keras.Model(ids, scores)(IDS))
    messages = [str(x.message) for x in caught if "padding mask" in str(x.message)]
    return (weights > 0).any(axis=(1, 2)), messages


def inner_model(body):
    hidden = keras.Input((None, DIM))
    return keras.Model(hidden, body(hidden))


FOLLOWED = {  # what is done to x, and the mask that it leaves
    "sin(x)": (lambda x: ops.sin(x), MASK),
    "relu, and a sum": (lambda x: KERAS.ReLU()(x) + 1.0, MASK),
    "where": (lambda x: ops.where(x > 0, x, 0.1 * x), MASK),
    "x[:, 1:]": (lambda x: x[:, 1:], MASK[:, 1:]),
    "x[:, ::2]": (lambda x: x[:, ::2], MASK[:, ::2]),
    "x[..., :4] twice": (lambda x: ops.concatenate([x[..., :4], x[:, :, :2]], axis=-1), MASK),
    "a token before": (
        lambda x: ops.concatenate([ops.ones_like(x[:, :1]), x], axis=1),
        np.pad(MASK, ((0, 0), (1, 0)), constant_values=True),
    ),
    "a token behind": (
        lambda x: ops.concatenate([x, ops.zeros_like(x[:, :1]) + 0.5], axis=1),
        np.pad(MASK, ((0, 0), (0, 1)), constant_values=True),
    ),
    "ZeroPadding1D": (lambda x: KERAS.ZeroPadding1D((1, 2))(x), np.pad(MASK, ((0, 0), (1, 2)))),
    "pad": (lambda x: ops.pad(x, [[0, 0], [2, 0], [0, 0]]), np.pad(MASK, ((0, 0), (2, 0)))),
    "Cropping1D": (lambda x: KERAS.Cropping1D((1, 2))(x), MASK[:, 1:-2]),
    "UpSampling1D": (lambda x: KERAS.UpSampling1D(3)(x), np.repeat(MASK, 3, axis=1)),
    "stack of features": (lambda x: ops.stack(ops.unstack(x, axis=2), axis=2), MASK),
    "softmax of features": (lambda x: ops.softmax(x), MASK),
    "times its mean": (lambda x: x * ops.mean(x, axis=-1, keepdims=True), MASK),
    "times a matrix": (lambda x: ops.matmul(x, np.eye(DIM, dtype="float32")), MASK),
    "a sum, and an LSTM": (lambda x: KERAS.LSTM(DIM, return_sequences=True)(x + x), MASK),
    "a sum, and a model": (lambda x: inner_model(lambda h: KERAS.Dense(DIM)(h))(x + x), MASK),
    "a model that sums": (lambda x: inner_model(lambda h: h + h)(x), MASK),
    "features beside unmasked ones": (lambda x: KERAS.Concatenate()([ops.ones_like(x), x]), MASK),
    "features beside unmasked ones, Dense": (lambda x: KERAS.Dense(DIM)(KERAS.Concatenate()([x, ops.cos(x)])), MASK),
    "backwards": (lambda x: KERAS.LSTM(DIM, return_sequences=True, go_backwards=True)(x), MASK[:, ::-1]),
    "a sum, and two layers": (lambda x: kt.EncoderLayer(2, 13)(kt.EncoderLayer(2, 13)(x + x)), MASK),
}


@pytest.mark.once
@pytest.mark.parametrize("length", [None, LENGTH])
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_mask_is_followed_and_the_operation_named(name, length):
    body, expected = FOLLOWED[name]
    seen, messages = seen_keys(body, length=length)
    np.testing.assert_array_equal(seen, expected)
    assert messages and all("It is used all the same" in x for x in messages)


LOST = {
    "strides": lambda x: KERAS.Conv1D(DIM, 3, strides=2, padding="same", name="culprit")(x),
    "pooling": lambda x: KERAS.AveragePooling1D(2, name="culprit")(x),
    "permuted": lambda x: KERAS.Permute((1, 2), name="culprit")(x),
    "Lambda": lambda x: KERAS.Lambda(lambda y: y[:, 1:], name="culprit")(x),
    "lost, and then a sum": lambda x: KERAS.Conv1D(DIM, 3, padding="valid", name="culprit")(x) + 1.0,
    "in a model": lambda x: inner_model(lambda h: KERAS.AveragePooling1D(2, name="culprit")(h))(x),
    "one by one": lambda x: ops.stack([y + 1.0 for y in ops.unstack(x, num=LENGTH, axis=1)], axis=1),
    "flat, and back": lambda x: KERAS.Reshape((LENGTH, DIM))(KERAS.Flatten(name="culprit")(x)),
    "one row of rows, and back": lambda x: ops.reshape(ops.reshape(x, (-1, DIM)), (-1, LENGTH, DIM)),
    "an axis more, and less": lambda x: ops.expand_dims(x, 1)[:, 0],
    "a sum, and a last state": lambda x: KERAS.RepeatVector(3)(KERAS.LSTM(DIM)(KERAS.Conv1D(3, 2, name="culprit")(x))),
    "a largest over padding": lambda x: KERAS.RepeatVector(3)(KERAS.GlobalMaxPooling1D(name="culprit")(x)),
    "a model that makes masks": lambda x: _made_within(x),
}


WITHOUT_A_NAME = {"one by one", "one row of rows, and back", "an axis more, and less"}
OF_A_LENGTH = {"one by one", "flat, and back", "one row of rows, and back"}  # Keras cannot build these without one


def _made_within(x):
    inner_ids = keras.Input((None,), dtype="int32")
    embedded = kt.TokenEmbedding(VOCABULARY, DIM)(inner_ids)
    inner = keras.Model(inner_ids, KERAS.Add(name="culprit")([embedded, ops.ones_like(embedded)]))
    return inner(x._keras_history.operation.input)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "length"),
    [(name, length) for name in LOST for length in (None, LENGTH) if length or name not in OF_A_LENGTH],
)
def test_what_cannot_be_followed_is_said(name, length):
    _, messages = seen_keys(LOST[name], length=length)
    (message,) = messages
    assert (
        ("'culprit'" in message or name in WITHOUT_A_NAME)
        and "Padding will be attended to" in message
        and "`mask`" in message
    )


FINE = {
    "layers": lambda x: KERAS.LayerNormalization()(KERAS.Dense(DIM)(x)),
    "recurrent": lambda x: KERAS.Bidirectional(KERAS.GRU(3, return_sequences=True))(x),
    "a model": lambda x: keras.Sequential([KERAS.Dense(DIM), KERAS.ReLU()])(x),
    "pooled": lambda x: ops.expand_dims(KERAS.GlobalAveragePooling1D()(x), 1),
    "pooled by ours": lambda x: ops.expand_dims(kt.MaskedPooling()(x), 1),
    "a mean over time": lambda x: ops.mean(x, axis=1, keepdims=True),
    "one token": lambda x: ops.expand_dims(x[:, 0], 1),
    "one token of many": lambda x: ops.expand_dims(ops.unstack(x, num=LENGTH, axis=1)[0], 1),
    "a mean of a model's output": lambda x: ops.mean(inner_model(kt.EncoderLayer(2, 13))(x), axis=1, keepdims=True),
    "a model that concatenates": lambda x: inner_model(lambda h: KERAS.Concatenate()([h, h]))(x),
    "a model that adds": lambda x: inner_model(lambda h: KERAS.Add()([h, h]))(x),
    "a token before, by a layer": lambda x: KERAS.Concatenate(axis=1)([ops.ones_like(x[:, :1]), x]),
    "queries of another kind": lambda x: KERAS.MultiHeadAttention(2, 3)(ops.zeros((2, 3, DIM)) + 0.1, x),
    "the last state": lambda x: KERAS.RepeatVector(3)(KERAS.LSTM(DIM)(x)),
}


@pytest.mark.once
@pytest.mark.parametrize("name", FINE)
def test_where_nothing_is_lost_nothing_is_said(name):
    _, messages = seen_keys(FINE[name])
    assert messages == []


# A memory's mask is the memory's


@pytest.mark.once
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda y, memory: kt.DecoderLayer(2, 13)(y, memory),
        lambda y, memory: kt.DecoderLayer(2, 13)(memory=memory, inputs=y),
        lambda y, memory: kt.MultiHeadCrossAttention(2)(y, memory),
        lambda y, memory: y + KERAS.MultiHeadAttention(2, 3)(y, memory),
        lambda y, memory: kt.DotAttention(DIM)(y, memory),
        lambda y, memory: kt.RecurrentDecoderLayer(DIM)(y, memory)[0],
    ],
    ids=["decoder", "by name", "cross-attention", "Keras' attention", "dot attention", "recurrent"],
)
def test_a_memory_is_not_where_the_targets_mask_comes_from(make, layers):
    source, target = (keras.Input((None,), dtype="int32") for _ in range(2))
    memory = kt.TokenEmbedding(VOCABULARY, DIM)(source)
    y = KERAS.Embedding(VOCABULARY, DIM)(target)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(layers):
            y = make(y, memory)
        _, scores = kt.MultiHeadSelfAttention(2)(y, return_attention_scores=True)
    model = keras.Model([source, target], scores)
    for length in (LENGTH, 3):
        tokens = np.random.default_rng(0).integers(1, VOCABULARY, (2, length))
        weights = as_numpy(model([IDS, tokens]))
        assert weights.shape == (2, 2, length, length) and (weights > 0).all()


# Within subclassed models tensors have no history


class Subclassed(keras.Model):
    def __init__(self, embedding, between):
        super().__init__(name="subclassed")
        self.embedding, self.encoder, self.between = embedding, encoder(), between

    def call(self, ids):
        return self.encoder(self.between(self.embedding(ids)))


def wrapped(model):
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, model(ids))


def trained(model):
    model.compile("sgd", "mse")
    model.fit(IDS, np.zeros((2, LENGTH, DIM), "float32"), verbose=0)


EMBEDDINGS = {
    "ours": lambda: kt.TokenEmbedding(VOCABULARY, DIM),
    "Keras'": lambda: KERAS.Embedding(VOCABULARY, DIM, mask_zero=True),
}


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize(
    "run", [lambda m: m(IDS), trained, lambda m: wrapped(m).predict(IDS, verbose=0)], ids=["call", "fit", "wrapped"]
)
def test_within_a_subclassed_model_a_lost_mask_is_suspected(run, embedding):
    with pytest.warns(UserWarning, match="'encoder'.*padding mask was dropped.*`mask`"):
        run(Subclassed(EMBEDDINGS[embedding](), lambda x: x + x))


@pytest.mark.parametrize("between", [lambda x: x[:, 1:], lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 0]])])
def test_within_a_subclassed_model_a_change_of_length_hides_nothing(between):
    with pytest.warns(UserWarning, match="'encoder'.*padding mask was dropped.*`mask`"):
        Subclassed(EMBEDDINGS["ours"](), between)(IDS)


@pytest.mark.parametrize(
    "embedding",
    [
        *EMBEDDINGS.values(),
        lambda: kt.TokenEmbedding(VOCABULARY, DIM, padding_id=None),
        lambda: KERAS.Embedding(VOCABULARY, DIM),
    ],
)
def test_within_a_subclassed_model_that_keeps_its_mask_nothing_is_said(embedding):
    has_mask = getattr(embedding(), "padding_id", None) is not None or getattr(embedding(), "mask_zero", False)
    between = KERAS.Dropout(0.1) if has_mask else lambda x: x + x
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*padding mask")
        model = Subclassed(embedding(), between)
        model(IDS)
        trained(model)


def test_a_tensor_times_a_number_is_not_sparse():
    """For Keras it is (3.15.1), and no layer took it where its shape is found by calling it."""
    x = keras.Input((None, DIM))
    model = keras.Model(x, kt.EncoderLayer(2, 13)(kt.RMSNormalization()(x) * 2.0))
    assert model(np.ones((2, 3, DIM), "float32")).shape == (2, 3, DIM)


# A model within a model is given its masks only when it runs


def tokens_model(body):
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, body(kt.TokenEmbedding(VOCABULARY, DIM)(ids)))


def messages_of(make, ids=IDS):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = make()
        model(ids)
        model(ids)
    return [str(x.message) for x in caught if "padding mask" in str(x.message)]


def memory_within(target, memory):
    own_target, own_memory = keras.Input((None, DIM)), keras.Input((None, DIM))
    inner = keras.Model([own_target, own_memory], kt.DecoderLayer(2, 13)(own_target, own_memory * 2.0))
    return inner([target, memory])


NESTED_LOST = {
    "within": lambda x: inner_model(lambda h: encoder()(h + h))(x),
    "before": lambda x: inner_model(encoder())(x + x),
    "before a Sequential": lambda x: keras.Sequential([encoder()])(x + x),
    "between two": lambda x: inner_model(lambda h: inner_model(encoder())(h + h))(x),
    "length": lambda x: inner_model(lambda h: encoder()(h[:, 1:]))(x),
    "pooling": lambda x: inner_model(lambda h: kt.MaskedPooling()(h * 2.0))(x),
    "memory": lambda x: memory_within(x, encoder()(x)),
}


@pytest.mark.parametrize("name", NESTED_LOST)
def test_what_is_lost_around_a_model_within_a_model_is_said_when_it_runs(name):
    (message,) = messages_of(lambda: tokens_model(NESTED_LOST[name]))
    assert "dropped by the operation" in message and "Padding will be attended to" in message


def test_a_mask_that_is_given_to_a_model_is_lost_with_a_word():
    model, x = inner_model(lambda h: encoder()(h + h)), np.ones((2, LENGTH, DIM), "float32")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*padding mask")
        model(x)
    model = inner_model(lambda h: encoder()(h + h))
    with pytest.warns(UserWarning, match="dropped by the operation Add"):
        model(x, mask=ops.convert_to_tensor(MASK))


def unmasked_memory(x):
    ids = x._keras_history.operation.input
    memory = inner_model(lambda h: encoder()(h + h))(KERAS.Embedding(VOCABULARY, DIM)(ids))
    return kt.DecoderLayer(2, 13)(x, memory)


def patches_beside(x):
    patches = ops.expand_dims(KERAS.Embedding(VOCABULARY, DIM)(x._keras_history.operation.input), 1)
    return kt.DecoderLayer(2, 13)(x, KERAS.TimeDistributed(encoder())(patches)[:, 0])


NESTED_FINE = {
    "two deep": lambda x: inner_model(lambda h: inner_model(encoder())(h))(x),
    "Sequential": lambda x: keras.Sequential([encoder(), kt.MaskedPooling()])(x),
    "no mask": lambda x: unmasked_memory(x),
    "patches": lambda x: patches_beside(x),
}


@pytest.mark.parametrize("name", NESTED_FINE)
def test_where_a_model_within_a_model_has_its_masks_nothing_is_said(name):
    assert messages_of(lambda: tokens_model(NESTED_FINE[name])) == []


class Holding(keras.Model):
    """A functional model within a subclassed one."""

    def __init__(self, inner, between):
        super().__init__()
        self.embedding, self.inner, self.between = kt.TokenEmbedding(VOCABULARY, DIM), inner, between

    def call(self, ids):
        return self.inner(self.between(self.embedding(ids)))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_a_functional_model_within_a_subclassed_one(within, lost):
    change = (lambda x: x + x) if lost else (lambda x: x)
    inner = inner_model(lambda h: encoder()(change(h) if within else h))
    messages = messages_of(lambda: Holding(inner, (lambda x: x) if within else change))
    assert len(messages) == lost and all("'encoder'" in x for x in messages)


def characters():
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, kt.MaskedPooling()(kt.TokenEmbedding(VOCABULARY, DIM)(ids)))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [kt.TokenEmbedding(VOCABULARY, DIM), encoder()],
        lambda: [kt.TokenEmbedding(VOCABULARY, DIM), kt.MultiHeadSelfAttention(2)],
        lambda: [KERAS.Embedding(VOCABULARY, DIM, mask_zero=True), kt.MaskedPooling()],
        lambda: [characters()],
    ],
    ids=["encoder", "attention", "pooling", "characters"],
)
def test_time_distributed_takes_masks_from_embeddings_with_a_word(layers):
    def make():
        ids = x = keras.Input((2, LENGTH), dtype="int32")
        for layer in layers():
            x = KERAS.TimeDistributed(layer)(x)
        return keras.Model(ids, encoder()(x) if len(x.shape) == 3 else x)

    assert any("padding mask was dropped" in x for x in messages_of(make, np.stack([IDS, IDS])))
