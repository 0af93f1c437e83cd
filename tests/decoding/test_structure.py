"""A generator follows its model: weights freely, and whatever else changes by compiling anew; copies have their own."""

import copy
import logging
import pickle

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding.structure import Structure

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

END, MAX_LENGTH = 3, 9
PROMPTS = [[2, 5, 4], [7], [9, 2]]


@pytest.fixture
def model(language_model):
    return language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))


@pytest.fixture
def draft(language_model):
    return language_model(kt.DecoderLayer(4, 13, head_dim=6))


def make(model, **options):
    return kt.Generator(model, max_length=MAX_LENGTH, end_token=END, **options)


def assert_same(actual, expected):
    assert actual["tokens"].tolist() == expected["tokens"].tolist()
    np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-4)


def block(model):
    return next(layer for layer in model.layers if isinstance(layer, kt.DecoderLayer))


def with_lora(model):
    layer = block(model).feed_forward.outer
    layer.enable_lora(3)
    layer.lora_kernel_b.assign(np.random.default_rng(0).normal(size=layer.lora_kernel_b.shape) * 3)


def with_another_activation(model):
    block(model).feed_forward.inner.activation = keras.activations.tanh


def quantized(model):
    model.quantize("int8")


CHANGES = {"LoRA": with_lora, "activation": with_another_activation, "int8": quantized}


@pytest.mark.parametrize(
    "change", [pytest.param(change, marks=[pytest.mark.slow] if change == "int8" else []) for change in CHANGES]
)
def test_a_changed_model_is_compiled_anew(change, model, caplog):
    generator = make(model)
    before = generator(PROMPTS)
    CHANGES[change](model)
    with caplog.at_level(logging.INFO, "keras_transformer"):
        after = generator(PROMPTS)
        assert "has changed" in caplog.text
        caplog.clear()
        assert_same(after, generator(PROMPTS))
        assert "has changed" not in caplog.text
    assert np.abs(after["scores"] - before["scores"]).max() > 1e-4
    fresh = make(model)
    assert_same(after, fresh(PROMPTS))
    np.testing.assert_allclose(generator.score(PROMPTS), fresh.score(PROMPTS), rtol=1e-4)
    streams = [np.stack(list(x.stream(PROMPTS))).tolist() for x in (generator, fresh)]
    assert streams[0] == streams[1]


@pytest.mark.slow
def test_a_changed_draft_is_followed(model, draft):
    strategy = kt.Speculative(draft, 2, strategy=kt.Sampling(seed=3))
    generator = make(model, strategy=strategy)
    generator(PROMPTS)
    with_lora(draft)
    assert_same(generator(PROMPTS), make(model, strategy=strategy)(PROMPTS))


def test_training_compiles_nothing(model, caplog):
    generator = make(model)
    before = generator(PROMPTS)
    tokens = np.random.default_rng(0).integers(1, 29, (8, 7))
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(tokens[:, :-1], tokens[:, 1:], verbose=0)
    with caplog.at_level(logging.INFO, "keras_transformer"):
        after = generator(PROMPTS)
    assert caplog.text == ""
    if keras.backend.backend() != "torch":  # where every call runs the layers
        assert generator._structure.is_current()  # and nothing is read anew at the next call
    assert np.abs(after["scores"] - before["scores"]).max() > 1e-4
    assert_same(after, make(model)(PROMPTS))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("speculative", [False, True])
def test_a_copy_has_a_model_of_its_own(speculative, copied, model, draft):
    generator = make(model, strategy=kt.Speculative(draft, 2) if speculative else None)
    before = generator(PROMPTS)
    other = copied(generator)
    assert other.model is not model
    assert_same(other(PROMPTS), before)
    for weight in other.model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(weight * 1.5)
    changed = other(PROMPTS)
    assert np.abs(changed["scores"] - before["scores"]).max() > 1e-3
    assert_same(changed, make(other.model)(PROMPTS))
    assert_same(generator(PROMPTS), before)


def test_a_shallow_copy_shares_the_model(model):
    generator = make(model)
    assert copy.copy(generator).model is generator.model


class Settings:
    def __init__(self):
        self.values = {"rate": 1}


class Holding(keras.layers.Layer):
    """A layer with settings of every form."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factors, self.table, self.settings, self.names = [1.0, 2.0], {3: "a"}, Settings(), {"x"}
        self.blocks = [keras.layers.Dense(5), kt.FeedForward(7)]

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x


IN_PLACE = {
    "an attribute": lambda layer: setattr(layer, "factor", 2),
    "a list": lambda layer: layer.factors.append(3.0),
    "an entry": lambda layer: layer.factors.__setitem__(0, 5.0),
    "a key": lambda layer: layer.table.update({4: layer.table.pop(3)}),
    "an object": lambda layer: layer.settings.values.update(rate=2),
    "a set": lambda layer: layer.names.add("y"),
    "an order": lambda layer: layer.blocks.reverse(),
    "a policy": lambda layer: setattr(layer.blocks[0], "dtype_policy", "mixed_bfloat16"),
    "LoRA": lambda layer: layer.blocks[1].inner.enable_lora(2),
}


@pytest.mark.parametrize("change", IN_PLACE)
def test_whatever_changes_in_place_is_noticed(change):
    x, layer = keras.Input((3, 11)), Holding()
    model = keras.Model(x, layer(x))
    structure = Structure([model])
    model.set_weights([2 * weight for weight in model.get_weights()])
    assert structure.is_current() and structure == Structure([model])
    IN_PLACE[change](layer)
    assert not structure.is_current() and structure != Structure([model])
