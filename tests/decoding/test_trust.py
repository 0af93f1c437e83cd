"""A generator is refused for what an operation is, whatever the weights, the lengths and the values of today hide."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_transformer as kt
from keras_transformer.context import decoding
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.verification import padding_is_ignored

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

VOCABULARY, DIM, END = 31, 12, 3
NORMAL = keras.initializers.RandomNormal(stddev=1.0)


def model_of(function, vocabulary=VOCABULARY, embedding=None, length=None):
    """A decoder-only model around `function` of the embedded tokens and the tokens."""
    tokens = keras.Input((length,), dtype="int32", name="tokens")
    embedding = kt.TokenEmbedding(vocabulary, DIM) if embedding is None else embedding
    return keras.Model(tokens, layers.Dense(vocabulary, name="logits")(function(embedding(tokens), tokens)))


def block(**options):
    return kt.DecoderLayer(2, 7, **options)


def refusal(model, **options):
    """What the error says with which a generator of the model is refused."""
    with pytest.raises(ValueError) as error:
        kt.Generator(model, **{"max_length": 19, "end_token": END, **options})
    return str(error.value)


class Affine(layers.Layer):
    """x * gain, where the gain is zero at first."""

    def build(self, shape):
        self.gain = self.add_weight(shape=shape[-1:], initializer="zeros")

    def call(self, x):
        return x * self.gain


class ReZero(layers.Layer):
    """x + gate * f(x), where the gate is zero at first."""

    def __init__(self, function, learned=True, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.learned = learned

    def build(self, shape):
        self.gate = self.add_weight(shape=(), initializer="zeros", trainable=self.learned)

    def call(self, x):
        return x + self.gate * self.function(x)


def convolution(**options):
    return layers.Conv1D(DIM, 3, padding="causal", name="culprit", **options)


def count(ids, token=777):
    return ops.cumsum(ops.cast(ops.equal(ids, token), "int32"), axis=1)


def function(f):
    return layers.Lambda(f, name="culprit")


def twice_the_same(x):
    same = ops.cast(ops.all(ops.equal(x[:, 1:], x[:, :-1]), axis=-1, keepdims=True), x.dtype)
    return ops.concatenate([x[:, :1], x[:, 1:] * (1.0 + same)], axis=1)


def numbered(numbers, x):
    return x + layers.Embedding(99, DIM)(numbers)


HIDDEN = {
    "a kernel of zeros": (lambda x, tokens: x + convolution(kernel_initializer="zeros")(x), "Conv1D 'culprit'"),
    "a gate that is zero": (lambda x, tokens: ReZero(convolution(), name="gate")(x), "ReZero 'gate'"),
    "a frozen kernel of zeros": (
        lambda x, tokens: x + convolution(kernel_initializer="zeros", trainable=False)(x),
        "Conv1D 'culprit'",
    ),
    "a long reach": (lambda x, tokens: x + layers.Conv1D(DIM, 2, padding="causal", dilation_rate=40)(x), "Conv1D"),
    "a recurrence that is scaled to nothing": (
        lambda x, tokens: x + 1e-9 * layers.GRU(DIM, return_sequences=True, name="culprit")(x),
        "GRU 'culprit'",
    ),
    "the number of the sentence": (
        lambda x, tokens: x + layers.Embedding(99, DIM)(ops.cumsum(ops.cast(ops.equal(tokens, 5), "int32"), axis=1)),
        "Cumsum",
    ),
    "the number of the sentence, in a function": (
        lambda x, tokens: (
            x
            + layers.Embedding(99, DIM)(
                layers.Lambda(lambda t: ops.cumsum(ops.cast(ops.equal(t, 777), "int32"), axis=1), name="culprit")(
                    tokens
                )
            )
        ),
        "Lambda 'culprit'",
    ),
    "a gate that a callback opens": (
        lambda x, tokens: ReZero(lambda y: ops.cumsum(y, axis=1), learned=False, name="gate")(x),
        "ReZero 'gate'",
    ),
    "beyond a threshold": (
        lambda x, tokens: function(lambda y: y + ops.cumsum(ops.relu(y - 60.0), axis=1))(40.0 * x),
        "Lambda 'culprit'",
    ),
    "where a vector comes again": (lambda x, tokens: function(twice_the_same)(x), "Lambda 'culprit'"),
    "a rare token, of another type": (
        lambda x, tokens: numbered(function(count)(ops.cast(tokens, "float32")), x),
        "Lambda 'culprit'",
    ),
    "a rare token, as a boolean": (
        lambda x, tokens: numbered(
            function(lambda y: ops.cumsum(ops.cast(y, "int32"), axis=1))(ops.equal(tokens, 777)), x
        ),
        "Lambda 'culprit'",
    ),
    "a rare token, as a vector": (
        lambda x, tokens: numbered(
            function(lambda y: ops.cast(ops.cumsum(y, axis=1)[..., 777], "int32"))(ops.one_hot(tokens, 1000)), x
        ),
        "Lambda 'culprit'",
    ),
    "a rare token beside its vector": (
        lambda x, tokens: function(lambda y: y[0] + ops.cumsum(ops.where(y[1] == 777, y[0], 0.0), axis=1))(
            [x, ops.expand_dims(tokens, -1)]
        ),
        "Lambda 'culprit'",
    ),
    "whether a token came before": (
        lambda x, tokens: ops.where(
            ops.expand_dims(ops.cumsum(ops.cast(ops.equal(tokens, 999), "int32"), axis=1) > 0, -1), x, 2.0 * x
        ),
        "Cumsum",
    ),
    "a mask of one's own": (lambda x, tokens: block(name="culprit")(x, mask=ops.not_equal(tokens, 5)), "ids \\[5\\]"),
    "Masking": (lambda x, tokens: block()(layers.Masking(name="culprit")(x)), "Masking 'culprit'"),
    "a mask of other ids": (
        lambda x, tokens: block()(layers.Embedding(7, DIM, mask_zero=True, name="culprit")(ops.mod(tokens, 7))),
        "Embedding 'culprit'",
    ),
    "a mask in a recurrence": (
        lambda x, tokens: kt.RecurrentDecoderLayer(5, name="culprit")(x, mask=ops.not_equal(tokens, 5)),
        "RecurrentDecoderLayer 'culprit'",
    ),
    "a mask given to a nested model": (
        lambda x, tokens: nested(block(name="culprit"))(x, mask=ops.not_equal(tokens, 5)),
        "DecoderLayer 'culprit'",
    ),
    "a memory made of the target": (
        lambda x, tokens: kt.MultiHeadCrossAttention(2, name="culprit", kernel_initializer="zeros")(x, x),
        "memory that depends on the target",
    ),
    "the first position": (lambda x, tokens: x + Affine()(x[:, :1]), "GetItem"),
    "a mean, flat": (
        lambda x, tokens: x + Affine()(layers.Reshape((1, DIM))(layers.GlobalAveragePooling1D(name="culprit")(x))),
        "GlobalAveragePooling1D 'culprit'",
    ),
    "a prefix": (
        lambda x, tokens: block()(ops.concatenate([ops.ones_like(x[:, :1]), x], axis=1))[:, 1:],
        "GetItem|Concatenate|DecoderLayer",  # which is given a mask that is as long as the prefix and the tokens
    ),
}


def nested(*parts):
    states = keras.Input((None, DIM))
    x = states
    for part in parts:
        x = part(x)
    return keras.Model(states, x, name="nested")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HIDDEN)
def test_what_weights_lengths_and_values_hide_is_refused(kind):
    function, name = HIDDEN[kind]
    message = refusal(model_of(function, vocabulary=1000), max_length=50)
    assert pytest.importorskip("re").search(name, message), message
    assert "cache=False" in message


def follows(ids, first, second):
    pairs = ops.logical_and(ops.equal(ids[:, :-1], first), ops.equal(ids[:, 1:], second))
    return ops.pad(ops.cast(pairs, "int32"), [[0, 0], [1, 0]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "numbers", [lambda ids: follows(ids, 5, 17), lambda ids: ops.cast(count(ids, 5) > 10, "int32")], ids=["pair", "ten"]
)
def test_what_only_a_pair_of_tokens_or_many_of_them_show_is_refused(numbers):
    assert "'culprit'" in refusal(model_of(lambda x, tokens: numbered(function(numbers)(tokens), x)), max_length=40)


@pytest.mark.filterwarnings("ignore")
def test_a_huge_bias_hides_nothing():
    model = model_of(lambda x, tokens: layers.GRU(DIM, return_sequences=True, name="culprit")(x), 50)
    bias = np.zeros(50, "float32")
    bias[1] = -1e9
    assert "'culprit'" in refusal(keras.Model(model.input, model.output + bias))


def test_a_huge_bias_hides_nothing_from_the_comparison_of_logits(monkeypatch):
    from keras_transformer.decoding import verification

    class Unseeing(verification.Inspection):
        def run(self):
            pass

    monkeypatch.setattr(verification, "Inspection", Unseeing)
    bias = np.zeros(50, "float32")
    for places in (slice(1, 2), slice(5, None)):  # one of them, and nearly all
        bias[places] = -1e9
        model = model_of(lambda x, tokens: layers.GRU(DIM, return_sequences=True, name="culprit")(x), 50)
        assert "'culprit'" in refusal(keras.Model(model.input, model.output + bias))


class Embedded(layers.Layer):
    """Tokens and positions: a user's layer made of ours, which leaves a mask on what it returns."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tokens, self.positions = kt.TokenEmbedding(VOCABULARY, DIM), kt.PositionalEncoding()

    def call(self, ids):
        return self.positions(self.tokens(ids))


class RunningSum(layers.Layer):
    """A user's layer that takes part in decoding by what the context offers."""

    def call(self, x):
        context = decoding()
        if context is None:
            return ops.cumsum(x, axis=1)

        def step(inputs, states):
            total = states[0] + inputs
            return total, [total]

        def scan(inputs, states, mask):
            kept = inputs * ops.cast(ops.expand_dims(mask, -1), inputs.dtype)
            totals = ops.expand_dims(states[0], 1) + ops.cumsum(kept, axis=1)
            return totals, [totals[:, -1]]

        return context.recur(self, x, [ops.zeros((ops.shape(x)[0], DIM))], step, scan)


ACCEPTED = {
    "gates, gains and caps": lambda x, tokens: (
        30.0 * ops.tanh(block()(x * ops.tanh(layers.Dense(1)(x)) + Affine()(x)) / 30.0)
    ),
    "functions of one's own": lambda x, tokens: layers.Lambda(lambda y: ops.silu(y) - 1.0)(block()(x)),
    "a gated network by operations": lambda x, tokens: (
        block()(x) + layers.Dense(DIM)(ops.silu(layers.Dense(9)(x)) * layers.Dense(9)(x))
    ),
    "parallel branches": lambda x, tokens: x + kt.MultiHeadSelfAttention(2, causal=True)(x) + kt.FeedForward(7)(x),
    "heads by hand": lambda x, tokens: layers.Reshape((-1, DIM))(
        ops.transpose(ops.transpose(layers.Reshape((-1, 3, 4))(block()(x)), (0, 2, 1, 3)), (0, 2, 1, 3))
    ),
    "halves and slices": lambda x, tokens: ops.concatenate(
        [ops.split(block()(x), 2, axis=-1)[0], x[..., 1:3], ops.max(x, axis=-1, keepdims=True)], axis=-1
    ),
    "layers of Keras on each position": lambda x, tokens: layers.TimeDistributed(layers.Dense(5))(
        layers.Conv1D(7, 1)(layers.PReLU(shared_axes=[1])(layers.BatchNormalization()(block()(x))))
    ),
    "features of tokens": lambda x, tokens: block()(
        x + layers.Embedding(7, DIM)(ops.mod(tokens, 7)) + layers.Dense(DIM)(ops.one_hot(tokens, VOCABULARY))
    ),
    "the mask of the padding, handed over": lambda x, tokens: block()(block()(x), mask=ops.not_equal(tokens, 0)),
    "a token changes its own position": lambda x, tokens: block()(
        ops.where(ops.expand_dims(ops.equal(tokens, 4), -1), 0.0, x)
    ),
    "layers made of ours": lambda x, tokens: block()(Embedded()(tokens)),
    "a layer that takes part": lambda x, tokens: RunningSum()(x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_acts_on_each_position_by_itself_is_accepted(kind, roughen, assert_decodes_exactly):
    model = roughen(model_of(ACCEPTED[kind]))
    assert_decodes_exactly(model)


@pytest.mark.filterwarnings("ignore")
def test_it_makes_no_difference_which_weights_a_layer_has_when_the_generator_is_made(greedy_oracle, roughen):
    model = model_of(lambda x, tokens: block()(Affine()(x) + x))
    generator = kt.Generator(model, max_length=11, end_token=END)
    roughen(model)
    prompts = np.array([[2, 5, 4], [7, 0, 0]])
    expected = greedy_oracle(model, prompts, max_length=11, end_token=END)
    assert generator(prompts)["tokens"].tolist() == expected["tokens"].tolist()


@pytest.mark.filterwarnings("ignore:.*padding mask was dropped")
def test_the_weights_are_never_touched():
    gate = ReZero(layers.Dense(DIM))
    model = model_of(lambda x, tokens: block()(gate(x)))
    before, versions = model.get_weights(), [id(x.value) for x in model.weights]
    kt.Generator(model, max_length=11, end_token=END)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    if keras.backend.backend() == "jax":  # where values are replaced, not written
        assert versions == [id(x.value) for x in model.weights]


# Without a cache


def from_the_end(x):
    return x + ops.flip(ops.cumsum(ops.ones_like(x), axis=1), axis=1)


NOT_CAUSAL = {
    "a look ahead with a kernel of zeros": lambda x, tokens: (
        x + layers.Conv1D(DIM, 3, padding="same", name="culprit", kernel_initializer="zeros")(x)
    ),
    "a look ahead at the end": lambda x, tokens: ops.flip(ops.concatenate([x[:, :-1], x[:, -1:] * 2], axis=1), axis=1),
    "whether a token comes later": lambda x, tokens: (
        x
        * layers.Lambda(lambda t: 1.0 + ops.cast(ops.any(ops.equal(t, 777), axis=1, keepdims=True), "float32"))(tokens)[
            ..., None
        ]
    ),
    "how long the sequence is": lambda x, tokens: function(lambda y: y * ops.cast(ops.shape(y)[1], "float32"))(x),
    "positions from the end": lambda x, tokens: function(from_the_end)(x),
    "a longer output": lambda x, tokens: layers.UpSampling1D(2, name="culprit")(x),
    "a shorter output": lambda x, tokens: layers.AveragePooling1D(2, name="culprit")(x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NOT_CAUSAL)
def test_without_a_cache_every_operation_must_be_causal_and_keep_the_length(kind):
    message = refusal(model_of(NOT_CAUSAL[kind], 1000), cache=False, max_length=50)
    assert "not causal" in message


CAUSAL = {
    "a kernel of zeros": HIDDEN["a kernel of zeros"][0],
    "a mask of one's own": HIDDEN["a mask of one's own"][0],
    "the first position": HIDDEN["the first position"][0],
    "a prefix": HIDDEN["a prefix"][0],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CAUSAL)
def test_without_a_cache_causal_operations_generate(kind, roughen, assert_decodes_exactly):
    assert_decodes_exactly(roughen(model_of(CAUSAL[kind])), caches=(False,), max_length=7)


def test_attention_by_hand_of_a_fixed_length_generates_without_a_cache(roughen, assert_decodes_exactly):
    length = 9

    def attend(x, tokens):
        scores = ops.matmul(layers.Dense(DIM)(x), ops.transpose(layers.Dense(DIM)(x), (0, 2, 1)))
        scores = ops.where(np.tril(np.ones((length, length), bool)), scores, -1e9)
        return ops.matmul(ops.softmax(scores), x)

    model = roughen(model_of(attend, length=length))
    assert_decodes_exactly(model, caches=(False,), max_length=length)


# Sizes and errors


@pytest.mark.parametrize("cache", [True, False])
def test_a_model_that_generates_ids_it_cannot_read_is_refused(cache):
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(
        tokens, layers.Dense(31, name="logits")(block()(kt.TokenEmbedding(29, DIM, name="table")(tokens)))
    )
    message = refusal(model, cache=cache)
    assert "'logits'" in message and "'table'" in message and "31" in message and "28" in message


class OwnPositions(layers.Layer):
    """A table of positions of fixed size, cut to the length."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def build(self, shape):
        self.table = self.add_weight(shape=(self.size, shape[-1]), initializer=NORMAL)

    def call(self, x):
        return x + ops.take(self.table, ops.arange(ops.shape(x)[1]), axis=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [4, 8, 16])
def test_sources_with_a_table_of_positions_of_their_own(size, roughen):
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    memory = kt.EncoderLayer(2, 7)(OwnPositions(size)(kt.TokenEmbedding(23, DIM)(source)))
    y = block()(kt.PositionalEncoding()(kt.TokenEmbedding(29, DIM)(target)), memory)
    model = roughen(keras.Model([source, target], layers.Dense(29)(y)))
    generator = kt.Generator(model, max_length=8, start_token=2, end_token=END)
    longest = np.arange(1, size + 1)[None]
    assert generator(longest)["tokens"].shape == (1, 1, 8)
    if keras.backend.backend() == "tensorflow":  # JAX reads the last row for all that lie beyond
        message = refusal(
            keras.Model(model.input, layers.Dense(29)(OwnPositions(4, name="own")(y))), cache=False, max_length=8
        )
        assert "'own'" in message


# Sources


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["gate", "bias", "neither"])
def test_whether_sources_may_be_padded_does_not_depend_on_the_weights_of_today(kind):
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    x = kt.TokenEmbedding(23, DIM)(source)
    if kind != "neither":  # a mean over padding, too, which the gate hides, or a huge logit
        gate = ReZero(lambda x: layers.GlobalAveragePooling1D(keepdims=True)(ops.tanh(x))) if kind == "gate" else (
            lambda x: x + layers.GlobalAveragePooling1D(keepdims=True)(ops.tanh(x))
        )  # fmt: skip
        y = kt.TokenEmbedding(29, DIM)(target) + ops.mean(gate(x), axis=1, keepdims=True)
    else:
        y = kt.TokenEmbedding(29, DIM)(target)
    logits = layers.Dense(29)(block()(y, kt.EncoderLayer(2, 7)(x)))
    if kind == "bias":
        logits = logits + np.where(np.arange(29) == 7, -1e9, 0.0).astype("float32")
    paddable = padding_is_ignored(Graph(keras.Model([source, target], logits)))
    assert paddable == ({0} if kind == "neither" else set())


@pytest.mark.filterwarnings("ignore")
def test_a_source_that_is_looked_at_from_afar_is_not_padded():
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    x = layers.Embedding(23, DIM, mask_zero=True)(source)
    far = layers.Conv1D(DIM, 2, padding="same", dilation_rate=60)(x)
    for memory, paddable in ((far, set()), (x, {0})):
        y = block()(kt.TokenEmbedding(29, DIM)(target), memory)
        assert padding_is_ignored(Graph(keras.Model([source, target], layers.Dense(29)(y)))) == paddable


@pytest.mark.filterwarnings("ignore")
def test_of_several_sources_each_is_judged_by_itself():
    first, second = (keras.Input((None,), dtype="int32", name=name) for name in ("first", "second"))
    target = keras.Input((None,), dtype="int32", name="target")
    y = block()(kt.TokenEmbedding(29, DIM)(target), kt.TokenEmbedding(23, DIM)(first))
    y = y + ops.max(kt.TokenEmbedding(19, DIM)(second), axis=1, keepdims=True)
    assert padding_is_ignored(Graph(keras.Model([first, second, target], layers.Dense(29)(y)))) == {0}


@pytest.mark.parametrize("cache", [True, False])
def test_a_model_may_forbid_ids_by_itself(cache, roughen, assert_decodes_exactly):
    model = roughen(model_of(lambda x, tokens: block()(x)))
    model = keras.Model(model.input, ops.where(np.arange(VOCABULARY) > 19, -np.inf, model.output))
    with np.errstate(divide="ignore"):
        assert_decodes_exactly(model, caches=(cache,), max_length=7)
