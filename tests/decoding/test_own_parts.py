"""Norms, feed-forward networks, positions and layers of the user's own generate with a cache, or are refused."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own


def cumulated(x):
    """Something that a step cannot know without a state."""
    return ops.cumsum(x, axis=1)


class Norm(keras.layers.Layer):
    """x / max |x|, which looks at other positions if it is told to."""

    def __init__(self, mixes=False, **kwargs):
        super().__init__(**kwargs)
        self.mixes = mixes
        self.supports_masking = True

    def build(self, inputs_shape):
        self.factor = self.add_weight(name="factor", shape=(inputs_shape[-1],), initializer="ones")

    def call(self, inputs):
        largest = ops.max(ops.abs(inputs), axis=-1, keepdims=True)
        return self.factor * (cumulated(inputs) if self.mixes else inputs) / (largest + 0.1)

    def get_config(self):
        return {**super().get_config(), "mixes": self.mixes}


class Network(keras.layers.Layer):
    """tanh(x W), which looks at other positions if it is told to."""

    def __init__(self, mixes=False, **kwargs):
        super().__init__(**kwargs)
        self.mixes = mixes
        self.supports_masking = True

    def build(self, inputs_shape):
        self.kernel = self.add_weight(name="kernel", shape=(inputs_shape[-1],) * 2)

    def call(self, inputs):
        return ops.tanh(ops.matmul(cumulated(inputs) if self.mixes else inputs, self.kernel))

    def get_config(self):
        return {**super().get_config(), "mixes": self.mixes}


class Position(kt.AttentionPosition):
    """A bias by the parity of the distance; or one that takes no notice of positions, but of places in the cache."""

    def __init__(self, mixes=False, **kwargs):
        super().__init__(**kwargs)
        self.mixes = mixes

    def build(self, heads_shape):
        self.weight = self.add_weight(name="weight", shape=(1, heads_shape[-2], 1, 1), initializer="ones")

    def bias(self, query_positions, key_positions, causal):
        distance = ops.expand_dims(query_positions, -1) - ops.expand_dims(key_positions, -2)
        if self.mixes:
            distance = distance + ops.shape(key_positions)[1]
        return self.weight * ops.cast(ops.expand_dims(distance % 3, 1), "float32")

    def get_config(self):
        return {**super().get_config(), "mixes": self.mixes}


PARTS = {
    "norm": lambda mixes: {"intermediate_dim": 13, "norm": Norm(mixes), "norm_placement": "both"},
    "qk_norm": lambda mixes: {"intermediate_dim": 13, "qk_norm": Norm(mixes), "qk_norm_over": "heads"},
    "feed_forward": lambda mixes: {"feed_forward": Network(mixes)},
    "position": lambda mixes: {"intermediate_dim": 13, "position": Position(mixes)},
}

QUICK = ("norm", "position")
EACH = [part if part in QUICK else pytest.param(part, marks=pytest.mark.slow) for part in PARTS]


def block(part, mixes):
    return kt.DecoderLayer(4, head_dim=6, name="mine", **PARTS[part](mixes))


@pytest.mark.parametrize("part", EACH)
def test_a_part_of_ones_own_generates(part, language_model, assert_decodes_exactly):
    model = language_model(block(part, False), encoding=kt.PositionalEncoding())
    assert_decodes_exactly(model, jit_compile=False)


@pytest.mark.parametrize("part", EACH)
def test_a_part_that_mixes_positions_is_refused_by_the_name_of_its_block(part, language_model):
    model = language_model(block(part, True), encoding=kt.PositionalEncoding())
    with pytest.raises(ValueError, match="DecoderLayer 'mine'.*mixes time steps"):
        kt.Generator(model, max_length=11, end_token=3)


def test_a_class_token_is_for_encoders(language_model):
    with pytest.raises(ValueError, match="ClassToken.*belongs to an encoder"):
        kt.Generator(language_model(kt.ClassToken(), block("norm", False)), max_length=11, end_token=3)


@pytest.mark.tensorflow
def test_a_class_token_on_the_source_side(roughen):
    pictures, target = keras.Input((None, 7)), keras.Input((None,), dtype="int32")
    memory = kt.EncoderLayer(1, 13)(kt.ClassToken()(pictures))
    embedding = kt.TokenEmbedding(29, 12)
    x = kt.DecoderLayer(4, 13)(kt.PositionalEncoding()(embedding(target)), memory)
    model = roughen(keras.Model([pictures, target], embedding(x, reverse=True)))
    x = np.random.default_rng(1).normal(size=(2, 5, 7)).astype("float32")
    answers = [
        kt.Generator(model, max_length=11, end_token=3, cache=cache, jit_compile=False)(x, [[2], [2]])
        for cache in (True, False)
    ]
    assert answers[0]["tokens"].tolist() == answers[1]["tokens"].tolist()


class Sums(keras.layers.Layer):
    """What `kt.incremental` keeps: the sum of all tokens so far, and that of the last two."""

    def call(self, inputs, mask=None):
        zeros = ops.zeros_like(inputs[:, 0])
        total = kt.incremental.recur(self, inputs, [zeros], lambda x, states: (x + states[0], [x + states[0]]), mask)
        values = ops.expand_dims(inputs, 1)
        _, values, places, seen = kt.incremental.extend(self, values[..., :1], values, window=2)
        near = ops.matmul(ops.cast(seen, inputs.dtype), values[:, 0])
        place = ops.cast(ops.expand_dims(kt.incremental.positions(self, inputs), -1), inputs.dtype)
        return ops.tanh(0.3 * total) + ops.sin(near) + 0.1 * place


@pytest.mark.parametrize("strategy", [None, kt.BeamSearch(3)], ids=["greedy", "beams"])
def test_a_layer_that_keeps_a_state(strategy, language_model, assert_decodes_exactly):
    model = language_model(Sums(), kt.FeedForward(13))
    if strategy is None:
        assert_decodes_exactly(model, jit_compile=False)
        return
    prompts = np.array([[2, 5, 4, 7], [7, 0, 0, 0]])
    answers = [
        kt.Generator(model, max_length=11, end_token=3, strategy=strategy, cache=cache, jit_compile=False)(prompts)
        for cache in (True, False)
    ]
    assert answers[0]["tokens"].tolist() == answers[1]["tokens"].tolist()


def test_on_whole_sequences(assert_close):
    x = np.random.default_rng(1).normal(size=(2, 7, 5)).astype("float32")
    near = x + np.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    expected = np.tanh(0.3 * x.cumsum(1)) + np.sin(near) + 0.1 * np.arange(7)[:, None]
    assert_close(Sums()(x), expected)
