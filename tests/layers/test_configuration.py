"""A layer is rebuilt from its configuration, and its constructor is small and strict."""

import inspect
import json

import keras
import pytest

import keras_transformer as kt
from keras_transformer import layers

from .helpers import CATALOGUE, HEAD_DIM, HEADS, POSITIONS, X, build, randomize

PUBLIC = [getattr(layers, name) for name in layers.__all__]


@pytest.mark.parametrize("name", CATALOGUE)
def test_configuration_is_complete(name, assert_close):
    layer, inputs = build(name)
    config = layer.get_config()
    json.dumps(config)
    clone = type(layer).from_config(config)
    assert clone.get_config() == config
    clone(*inputs)
    clone.set_weights(layer.get_weights())
    assert_close(clone(*inputs), layer(*inputs))


@pytest.mark.parametrize("name", POSITIONS)
def test_configuration_of_a_position_is_complete(name, assert_close):
    layer = kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, position=POSITIONS[name]())
    layer(X)
    randomize(layer)
    config = layer.get_config()
    json.dumps(config)
    clone = kt.MultiHeadSelfAttention.from_config(config)
    assert clone.get_config() == config
    clone(X)
    clone.set_weights(layer.get_weights())
    assert_close(clone(X), layer(X))


@pytest.mark.parametrize("name", CATALOGUE)
def test_no_class_attribute_hides_a_part(name):
    # On PyTorch, parts are found only where Python finds nothing, so a class attribute of that name comes first.
    layer, _ = build(name)
    for part in layer._flatten_layers():
        parts = (keras.layers.Layer, keras.Variable)
        hidden = [key for key, value in vars(part).items() if isinstance(value, parts) and hasattr(type(part), key)]
        assert not hidden, (type(part), hidden)


OTHER_INITIALIZERS = {
    "kernel_initializer": keras.initializers.RandomNormal(stddev=0.25),
    "bias_initializer": keras.initializers.Constant(0.25),
    "embeddings_initializer": keras.initializers.RandomNormal(stddev=0.25),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_configuration_has_every_argument(name):
    layer, inputs = CATALOGUE[name]()
    named = {
        argument.name
        for base in type(layer).__mro__
        if base.__module__.startswith("keras_transformer")
        for argument in inspect.signature(base.__init__).parameters.values()
        if argument.name != "self" and argument.kind is not argument.VAR_KEYWORD
    }
    assert named - set(layer.get_config()) == set()
    others = {argument: value for argument, value in OTHER_INITIALIZERS.items() if argument in named}
    layer, inputs = CATALOGUE[name](**others)
    layer(*inputs)
    config = layer.get_config()
    for argument, value in others.items():
        assert config[argument]["config"] == value.get_config()


@pytest.mark.parametrize("name", ["FeedForward", "EncoderLayer", "DecoderLayer", "MultiHeadCrossAttention"])
def test_initializers_reach_every_part_and_are_not_shared(name):
    layer, inputs = CATALOGUE[name](
        **{key: OTHER_INITIALIZERS[key] for key in ("kernel_initializer", "bias_initializer")}
    )
    layer(*inputs)
    kernels = [weight.numpy() for weight in layer.weights if weight.path.endswith("kernel")]
    biases = [weight.numpy() for weight in layer.weights if weight.path.endswith("bias")]
    assert len(kernels) == len(biases) >= 2
    assert all((bias == 0.25).all() for bias in biases)
    assert all(0.2 < kernel.std() < 0.3 for kernel in kernels)
    assert len({kernel.ravel()[0] for kernel in kernels}) == len(kernels)


# Signature


@pytest.mark.parametrize("layer", PUBLIC, ids=lambda layer: layer.__name__)
def test_constructor_takes_at_most_twelve_arguments_two_of_them_by_position(layer):
    for base in layer.__mro__:
        if "__init__" in vars(base) and base.__module__.startswith("keras_transformer"):
            arguments = list(inspect.signature(base.__init__).parameters.values())[1:]
            assert len([a for a in arguments if a.kind is not a.VAR_KEYWORD]) <= 12, base
            assert len([a for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD]) <= 2, base


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_unknown_argument_is_not_lost(name):
    with pytest.raises((TypeError, ValueError), match="num_haeds"):
        CATALOGUE[name](num_haeds=3)


def test_every_layer_of_the_package_is_in_the_catalogue():
    tested = {name.split(",")[0] for name in CATALOGUE}
    others = {"PaddingMask", "LogMelSpectrogram"}  # of ids and of sounds: their files test them
    assert {layer.__name__ for layer in PUBLIC if not issubclass(layer, kt.AttentionPosition)} == tested | others


def test_every_position_of_the_package_is_tested():
    tested = {type(make()) for make in POSITIONS.values()} - {type(None)}
    public = {layer for layer in PUBLIC if issubclass(layer, kt.AttentionPosition)}
    assert public == tested | {kt.AttentionPosition}, "a position is missing in POSITIONS of tests/layers/helpers.py"
