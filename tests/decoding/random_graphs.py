"""Random functional graphs of our layers and Keras', of which some cannot be decoded token by token."""

import keras
import numpy as np
from keras import layers, ops

import keras_transformer as kt

VOCABULARY, SOURCE_VOCABULARY, DIM = 23, 19, 8
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "softplus")


@keras.saving.register_keras_serializable("tests")
class Gate(layers.Layer):
    """x + gate * update, where the gate is zero at first."""

    def build(self, shapes):
        self.gate = self.add_weight(shape=(), initializer="zeros")

    def call(self, inputs):
        x, update = inputs
        return x + self.gate * update

    def compute_output_shape(self, shapes):
        return shapes[0]


@keras.saving.register_keras_serializable("tests")
class Mixer(layers.Layer):
    """A layer of a user that looks back: a mean over what came so far, with a gate that is zero at first."""

    def __init__(self, learned=True, **kwargs):
        super().__init__(**kwargs)
        self.learned = learned

    def build(self, shape):
        self.gate = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=self.learned)

    def call(self, x):
        ones = ops.ones_like(x[..., :1])
        return x + self.gate * ops.cumsum(x, axis=1) / ops.cumsum(ones, axis=1)


@keras.saving.register_keras_serializable("tests")
class Pointwise(layers.Layer):
    """A layer of a user that acts on each position by itself."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="zeros")
        self.inner = layers.Dense(shape[-1], activation="tanh")
        self.inner.build(shape)

    def call(self, x):
        return x + self.scale * self.inner(x)


class RandomGraph:
    """A random model, and what in it must be refused.

    Args:
        seed: Decides on everything.
        mixing: Names of `MIXING` to choose from; the graph then has at least one of them. Default: any, or none.

    Attributes:
        model: The functional model: sources first, "tokens" last.
        culprits: Of what looks at other positions without a cache: what an error may call it.
        not_causal: Whether something looks at later positions.
    """

    def __init__(self, seed: int, mixing=None):
        keras.utils.set_random_seed(seed)
        self.random = np.random.default_rng(seed)
        self.culprits, self.not_causal, self.kinds = [], False, []
        self.tokens = keras.Input((None,), dtype="int32", name="tokens")
        self.sources, self.memories = [], []
        for number in range(self.random.choice([0, 0, 1, 2])):
            self._add_source(number)
        x = self._embed()
        forced = self.random.integers(3) if mixing is not None else None
        is_mixed = mixing is not None or self.random.random() < 0.5
        place = self.random.integers(3) if is_mixed else None
        for step in range(self.random.integers(3, 6)):
            if step in (place, forced):
                x = self._apply(MIXING, x, mixing)
            x = self._apply(SAFE, x)
        self.model = keras.Model([*self.sources, self.tokens], self._head(x))

    def _apply(self, table: dict, x, names=None):
        kind = str(self.random.choice(list(names or table)))
        self.kinds.append(kind)
        return table[kind](self, x)

    def blame(self, name: str) -> str:
        """A name for the next culprit."""
        self.culprits.append(f"{name}_{len(self.culprits)}")
        return self.culprits[-1]

    def pick(self, *values):
        """One of some values."""
        return values[self.random.integers(len(values))]

    def memory(self):
        """One of the memories; None if there is none."""
        return self.pick(*self.memories) if self.memories else None

    def _add_source(self, number: int) -> None:
        if self.random.random() < 0.7:
            source = keras.Input((None,), dtype="int32", name=f"source_{number}")
            x = kt.TokenEmbedding(SOURCE_VOCABULARY, DIM)(source)
        else:
            source = keras.Input((None, 5), name=f"source_{number}")
            x = layers.Dense(DIM)(source)
        if self.random.random() < 0.7:
            x = kt.EncoderLayer(2, 7)(x)
        else:
            x = layers.Bidirectional(layers.GRU(DIM // 2, return_sequences=True))(x)
        self.sources.append(source)
        self.memories.append(x)

    def _embed(self):
        kind = self.pick("ours", "ours", "Keras", "masked")
        if kind == "ours":
            self.embedding = kt.TokenEmbedding(VOCABULARY, DIM, scale=self.pick(True, False))
        else:
            self.embedding = layers.Embedding(VOCABULARY, DIM, mask_zero=kind == "masked")
        x = self.embedding(self.tokens)
        positions = self.pick("sinusoids", "learned", "none")
        if positions == "sinusoids":
            return kt.PositionalEncoding()(x)
        return kt.LearnedPositionalEncoding(32)(x) if positions == "learned" else x

    def _head(self, x):
        if isinstance(self.embedding, kt.TokenEmbedding) and self.random.random() < 0.4:
            logits = self.embedding(x, reverse=True)
        else:
            logits = layers.Dense(VOCABULARY)(x)
        kind = self.pick("plain", "plain", "capped", "biased", "scaled")
        if kind == "capped":
            return 20.0 * ops.tanh(logits / 20.0)
        if kind == "biased":
            return logits + np.where(np.arange(VOCABULARY) == 5, -1e9, 0.0).astype("float32")
        return layers.Lambda(lambda y: y / 1.7)(logits) if kind == "scaled" else logits


def _block(graph, x, **options):
    placement = graph.pick("after", "before", "both", "branch")
    options = {"norm_placement": placement, "gated": graph.pick(True, False), **options}
    if graph.random.random() < 0.3:
        options |= {"sinks": True, "scale": 0.5, "qk_norm": kt.LayerNormalization(), "qk_norm_over": "heads"}
    if graph.random.random() < 0.4:
        options["position"] = graph.pick(kt.RotaryPosition(), kt.AlibiPosition(), kt.RelativePosition())
    if graph.random.random() < 0.3:
        options["window"] = int(graph.random.integers(1, 5))
    memory = graph.memory() if graph.random.random() < 0.7 else None
    if memory is None and placement == "before":
        options["parallel_norms"] = graph.pick(None, 1, 2)
    norm = graph.pick("layer", "rms", kt.RMSNormalization(offset=1.0))
    layer = kt.DecoderLayer(2, 7, norm=norm, num_kv_heads=graph.pick(1, 2), **options)
    x = layer(x, memory) if memory is not None else layer(x)
    if graph.random.random() < 0.2:  # a layer that is called twice
        x = layer(x, graph.memory()) if memory is not None else layer(x)
    return x


def _nested(graph, x):
    states = keras.Input((None, DIM))
    y = kt.DecoderLayer(2, 7)(states) if graph.pick(True, False) else layers.Dense(DIM, activation="tanh")(states)
    inner = keras.Model(states, y * 0.9 if graph.pick(True, False) else y)
    if graph.pick(True, False):
        inner = keras.Sequential([inner, layers.LayerNormalization()])
    x = inner(x)
    return inner(x) if graph.random.random() < 0.3 else x


def _recurrent(graph, x):
    layer = kt.RecurrentDecoderLayer(DIM, graph.pick("gru", "lstm", "rnn"))
    memory = graph.memory() if graph.random.random() < 0.5 else None
    return layer(x) if memory is None else layer(x, memory)[0]


def _attend(graph, x):
    memory = graph.memory()
    attention = kt.MultiHeadSelfAttention(2, causal=True) if memory is None else kt.MultiHeadCrossAttention(2)
    y = layers.LayerNormalization()(x)
    return x + (attention(y) if memory is None else attention(y, memory))


def _keras_attention(graph, x):
    memory = graph.memory()
    if memory is None:
        return _attend(graph, x)
    return x + layers.MultiHeadAttention(2, 3)(x, memory)


SAFE = {
    "block": _block,
    "block again": _block,
    "attention": _attend,
    "Keras' attention to a memory": _keras_attention,
    "recurrence": _recurrent,
    "nested": _nested,
    "feed-forward": lambda graph, x: x + kt.FeedForward(7, gated=graph.pick(True, False))(x),
    "Dense": lambda graph, x: layers.Dense(DIM, activation=graph.pick(*ACTIVATIONS))(x),
    "parallel": lambda graph, x: x + kt.MultiHeadSelfAttention(2, causal=True)(x) + kt.FeedForward(7)(x),
    "normalization": lambda graph, x: graph.pick(
        layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization, layers.BatchNormalization
    )()(x),
    "function": lambda graph, x: layers.Lambda(lambda y: ops.sin(y) + 0.1 * ops.square(y))(x),
    "slices": lambda graph, x: layers.Dense(DIM)(ops.concatenate([x[..., 2:5], x[:, :, :1]], axis=-1)),
    "halves": lambda graph, x: (lambda a, b: layers.Dense(DIM)(a * ops.sigmoid(b)))(*ops.split(x, 2, axis=-1)),
    "gates": lambda graph, x: Gate()([x, layers.Dense(DIM)(x)]) * ops.tanh(layers.Dense(1)(x)),
    "a layer of a user": lambda graph, x: Pointwise()(x),
    "heads": lambda graph, x: layers.Reshape((-1, DIM))(ops.tanh(layers.Reshape((-1, 2, DIM // 2))(x))),
    "transposed": lambda graph, x: ops.transpose(ops.tanh(ops.transpose(x, (0, 2, 1))), (0, 2, 1)),
    "einsum": lambda graph, x: x + ops.einsum("btd,btd,bte->bte", x, x, x) * 0.1,
    "some tokens": lambda graph, x: ops.where(ops.expand_dims(ops.equal(graph.tokens, 6), -1), 0.5 * x, x),
    "features of tokens": lambda graph, x: x + layers.Embedding(5, DIM)(ops.mod(graph.tokens, 5)),
    "the kind of a token": lambda graph, x: x + layers.Dense(DIM)(ops.one_hot(graph.tokens, VOCABULARY)),
    "shares": lambda graph, x: x * ops.softmax(layers.Dense(DIM)(x), axis=-1),
    "largest": lambda graph, x: x - ops.max(x, axis=-1, keepdims=True),
    "Conv1D of one": lambda graph, x: layers.Conv1D(DIM, 1)(x),
    "each": lambda graph, x: layers.TimeDistributed(layers.Dense(DIM))(x),
    "Dropout": lambda graph, x: layers.Dropout(0.5)(layers.GaussianNoise(0.3)(x)),
    "a source's mean": lambda graph, x: (
        x if graph.memory() is None else x + layers.Dense(DIM)(ops.mean(graph.memory(), axis=1, keepdims=True))
    ),
}


def _zeros(graph, layer_class, *args, **options):
    name = graph.blame(layer_class.__name__.lower())
    return layer_class(*args, kernel_initializer="zeros", name=name, **options)


def _convolution(graph, x):
    dilation = graph.pick(1, 2, 5)
    return x + _zeros(graph, layers.Conv1D, DIM, 2, padding="causal", dilation_rate=dilation)(x)


def _look_ahead(graph, x):
    graph.not_causal = True
    return x + _zeros(graph, layers.Conv1D, DIM, 3, padding="same")(x)


def _sentences(graph, x):
    graph.culprits.append("Cumsum")
    number = ops.cumsum(ops.cast(ops.equal(graph.tokens, graph.pick(5, 9, 14)), "int32"), axis=1)
    return x + layers.Embedding(40, DIM, embeddings_initializer="zeros")(number)


def _sentences_in_a_function(graph, x):
    token, name = graph.pick(5, 9, 14), graph.blame("function")
    count = layers.Lambda(lambda t: ops.cumsum(ops.cast(ops.equal(t, token), "int32"), axis=1), name=name)
    return x + layers.Embedding(40, DIM, embeddings_initializer="zeros")(count(graph.tokens))


def _positions_by_hand(graph, x):
    graph.culprits.append("Cumsum")
    count = ops.cumsum(ops.ones_like(graph.tokens), axis=1)
    return x + layers.Embedding(40, DIM, embeddings_initializer="zeros")(count)


def _masked(graph, x):
    graph.culprits += ["decoder_layer", "DecoderLayer"]
    return kt.DecoderLayer(2, 7, kernel_initializer="zeros")(x, mask=ops.not_equal(graph.tokens, graph.pick(5, 9)))


def _masked_in_a_model(graph, x):
    graph.culprits += ["decoder_layer", "DecoderLayer"]
    states = keras.Input((None, DIM))
    inner = keras.Model(states, kt.DecoderLayer(2, 7)(states))
    return inner(x, mask=ops.not_equal(graph.tokens, 5))


def _masking(graph, x):
    return kt.DecoderLayer(2, 7)(layers.Masking(name=graph.blame("masking"))(x))


def _other_padding(graph, x):
    layer = layers.Embedding(5, DIM, mask_zero=True, name=graph.blame("embedding"))
    return kt.DecoderLayer(2, 7)(layer(ops.mod(graph.tokens, 5)))


def _opened_by_a_callback(graph, x):
    gate = Mixer(name=graph.blame("mixer"), learned=False)
    return gate(x)


def _rare_token_of_another_type(graph, x):
    token, name = graph.pick(5, 9, 14), graph.blame("function")
    ids = graph.pick(
        ops.cast(graph.tokens, "float32"), ops.maximum(graph.tokens, 1), layers.Lambda(lambda t: 1 * t)(graph.tokens)
    )
    count = layers.Lambda(lambda t: ops.cumsum(ops.cast(ops.equal(t, token), "int32"), axis=1), name=name)
    return x + layers.Embedding(40, DIM, embeddings_initializer="zeros")(count(ids))


def _pairs(graph, x):
    first, second, name = graph.pick(5, 9), graph.pick(14, 9), graph.blame("function")

    def follows(ids):
        pairs = ops.logical_and(ops.equal(ids[:, :-1], first), ops.equal(ids[:, 1:], second))
        return ops.pad(ops.cast(pairs, "int32"), [[0, 0], [1, 0]])

    return x + layers.Embedding(2, DIM, embeddings_initializer="zeros")(layers.Lambda(follows, name=name)(graph.tokens))


def _beyond_a_threshold(graph, x):
    function = layers.Lambda(lambda y: y + ops.cumsum(ops.relu(y - 9.0), axis=1), name=graph.blame("function"))
    return function(3.0 * x)


def _repeated(graph, x):
    def repeated(y):
        same = ops.cast(ops.all(ops.equal(y[:, 1:], y[:, :-1]), axis=-1, keepdims=True), y.dtype)
        return ops.concatenate([y[:, :1], y[:, 1:] * (1.0 + same)], axis=1)

    return layers.Lambda(repeated, name=graph.blame("function"))(x)


def _first(graph, x):
    graph.culprits.append("GetItem")
    return Gate()([x, x[:, :1]])


def _mean(graph, x):
    graph.not_causal = True
    pooled = layers.GlobalMaxPooling1D(name=graph.blame("pooling"))(x)
    return Gate()([x, layers.Reshape((1, DIM))(pooled)])


def _nested_convolution(graph, x):
    states = keras.Input((None, DIM))
    inner = keras.Model(states, states + _zeros(graph, layers.Conv1D, DIM, 3, padding="causal")(states))
    return inner(x)


def _own_memory(graph, x):
    graph.not_causal = True
    name = graph.blame("attention")
    return x + kt.MultiHeadCrossAttention(2, kernel_initializer="zeros", name=name)(x, x)


MIXING = {
    "convolution": _convolution,
    "convolution within": _nested_convolution,
    "look ahead": _look_ahead,
    "recurrence of Keras": lambda graph, x: Gate()(
        [x, layers.GRU(DIM, return_sequences=True, name=graph.blame("gru"))(x)]
    ),
    "attention of Keras": lambda graph, x: Gate()(
        [x, layers.MultiHeadAttention(2, 3, name=graph.blame("attention"))(x, x, use_causal_mask=True)]
    ),
    "a layer of a user": lambda graph, x: Mixer(name=graph.blame("mixer"))(x),
    "sentence numbers": _sentences,
    "sentence numbers in a function": _sentences_in_a_function,
    "positions by hand": _positions_by_hand,
    "a mask of one's own": _masked,
    "a mask of one's own for a model": _masked_in_a_model,
    "Masking": _masking,
    "other padding": _other_padding,
    "opened by a callback": _opened_by_a_callback,
    "a rare token of another type": _rare_token_of_another_type,
    "pairs": _pairs,
    "beyond a threshold": _beyond_a_threshold,
    "repeated": _repeated,
    "first position": _first,
    "pooling": _mean,
    "a memory of its own": _own_memory,
}
