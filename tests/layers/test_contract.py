"""What every layer keeps as a Keras layer: specs, shapes, precision, training, gradients, configuration, signature."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer import layers

from .helpers import (
    ATTENTION,
    CATALOGUE,
    DIM,
    HEAD_DIM,
    HEADS,
    INNER,
    MASK,
    MEMORY,
    MEMORY_MASK,
    VOCABULARY,
    X,
    as_numpy,
    build,
    weight_gradients,
)

BLOCKS = [name for name in ATTENTION if name.startswith(("Encoder", "Decoder"))]
WITH_DROPOUT = ["FeedForward", "MultiHeadSelfAttention, all options", "MultiHeadCrossAttention, all options",
                "EncoderLayer", "EncoderLayer, all options", "DecoderLayer",
                "DecoderLayer, without memory"]  # fmt: skip
PUBLIC = [getattr(layers, name) for name in layers.__all__]


def symbolic(inputs, dtype=None):
    """Inputs of unknown batch and length, of the widths and dtypes of `inputs`."""
    return [keras.KerasTensor((None, None, *x.shape[2:]), dtype=dtype or str(x.dtype)) for x in inputs]


# Specs and shapes


def check_spec(spec, outputs):
    """Check that a spec says of rank, sizes and dtype what the outputs are, as far as it knows."""
    keras.tree.assert_same_structure(spec, outputs)
    for expected, output in zip(keras.tree.flatten(spec), keras.tree.flatten(outputs), strict=True):
        assert len(expected.shape) == len(output.shape)
        assert all(a is None or a == b for a, b in zip(expected.shape, output.shape, strict=True))
        assert expected.dtype == keras.backend.standardize_dtype(output.dtype)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_output_spec_is_what_comes_out(name, dtype):
    layer, inputs = build(name, dtype=dtype)
    output = layer(*inputs)
    seen_dtype = "int32" if name == "TokenEmbedding" else layer.compute_dtype  # what `__call__` makes of its inputs
    for spec in (layer.compute_output_spec(*symbolic(inputs, seen_dtype)), layer(*symbolic(inputs))):
        assert spec.shape == (None, None, DIM)
        check_spec(spec, output)


@pytest.mark.parametrize("name", ATTENTION)
def test_output_spec_with_attention_scores_is_what_comes_out(name):
    layer, inputs = build(name)
    outputs = layer(*inputs, return_attention_scores=True)
    spec = layer.compute_output_spec(*symbolic(inputs), return_attention_scores=True)
    check_spec(spec, outputs)
    known = layer.compute_output_spec(
        *[keras.KerasTensor((None, *x.shape[1:])) for x in inputs], return_attention_scores=True
    )
    for scores, known_scores, output in zip(spec[1:], known[1:], outputs[1:], strict=True):
        assert scores.shape == (None, HEADS, None, None)
        assert known_scores.shape == (None, *output.shape[1:])


def test_output_spec_in_reverse():
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    assert layer.compute_output_spec(keras.KerasTensor((None, None, DIM)), reverse=True).shape == (
        None, None, VOCABULARY,
    )  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUE)
def test_one_functional_model_takes_any_batch_and_length(name, assert_close):
    layer, inputs = build(name)
    symbols = [keras.Input(x.shape[1:], dtype=str(x.dtype)) for x in symbolic(inputs)]
    model = keras.Model(symbols, layer(*symbols))
    assert_close(model(list(inputs)), layer(*inputs))
    shorter = [x[:2, :-1] for x in inputs]
    assert_close(model(shorter), layer(*shorter))


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["TokenEmbedding", "LearnedPositionalEncoding", "EncoderLayer, all options",
                                  "DecoderLayer, all options", "DecoderLayer, without memory"])  # fmt: skip
def test_one_compiled_function_takes_any_batch_and_length(name, assert_close):
    import tensorflow as tf

    layer, inputs = build(name)
    specs = [tf.TensorSpec((None, None, *x.shape[2:]), x.dtype) for x in inputs]
    compiled = tf.function(lambda *inputs: layer(*inputs), input_signature=specs)
    for part in (inputs, [x[:2, :-1] for x in inputs]):
        assert_close(compiled(*part), layer(*part))
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", BLOCKS)
def test_attention_scores_come_with_the_same_output(name, assert_close):
    layer, inputs = build(name)
    output, *scores = layer(*inputs, return_attention_scores=True)
    assert_close(output, layer(*inputs))
    assert len(scores) == len(inputs)
    for weights in scores:
        assert_close(ops.sum(weights, -1), np.ones(weights.shape[:-1]))


def test_attention_scores_in_a_functional_model(assert_close):
    layer, inputs = build("DecoderLayer")
    symbols = [keras.Input((None, x.shape[-1])) for x in inputs]
    model = keras.Model(symbols, layer(*symbols, return_attention_scores=True))
    assert_close(list(model(list(inputs))), list(layer(*inputs, return_attention_scores=True)))


# Precision


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("bfloat16", 0.15)])
def test_mixed_precision_is_finite_and_close_to_float32(name, dtype, tolerance, assert_close):
    exact, inputs = build(name)
    layer, _ = build(name, dtype=f"mixed_{dtype}")
    # Row 1 has nothing to attend to, and neither has, behind its left padding, row 2's first query if causal.
    padding = {"mask": MASK & np.array([[True], [False], [True]])} if name in ATTENTION else {}
    if len(inputs) == 2:
        padding["memory_mask"] = MEMORY_MASK & np.array([[True], [False], [True]])
    output = layer(*inputs, **padding)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert np.isfinite(as_numpy(output)).all()
    assert_close(ops.cast(output, "float32"), exact(*inputs, **padding), tolerance)
    assert {weight.dtype for weight in layer.trainable_weights} <= {"float32"}


def test_a_global_policy_reaches_every_part():
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer, inputs = build("DecoderLayer, all options")
    parts = [part for part in layer._flatten_layers() if not isinstance(part, keras.layers.Dropout)]
    assert len(parts) > 10
    assert {part.compute_dtype for part in parts} == {"bfloat16"}


def test_a_policy_reaches_every_part():
    layer, inputs = build("DecoderLayer", dtype="mixed_bfloat16")
    assert {part.compute_dtype for part in layer._flatten_layers()} == {"bfloat16"}


# Training


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_is_for_training_only(name, assert_close):
    layer, inputs = build(name)
    calm = as_numpy(layer(*inputs, training=False))
    assert_close(layer(*inputs), calm)
    first, second = (as_numpy(layer(*inputs, training=True)) for _ in range(2))
    assert np.abs(first - calm).max() > 0.01
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("block", [kt.EncoderLayer, kt.DecoderLayer])
def test_each_rate_is_used(block, rate):
    layer = block(HEADS, INNER, head_dim=HEAD_DIM, **{rate: 0.5})
    inputs = (X,) if block is kt.EncoderLayer else (X, MEMORY)
    difference = as_numpy(layer(*inputs, training=True)) - as_numpy(layer(*inputs))
    assert np.abs(difference).max() > 0.01


def test_without_rates_training_changes_nothing(assert_close):
    layer, inputs = build("DecoderLayer, all options")
    assert_close(layer(*inputs, training=True), layer(*inputs))


@pytest.mark.parametrize("name", CATALOGUE)
def test_gradients_reach_every_weight(name):
    layer, inputs = build(name)
    found = weight_gradients(layer, lambda: layer(*inputs, training=False))
    assert set(found) == {weight.path for weight in layer.weights if "seed" not in weight.path}
    for path, gradient in found.items():
        assert gradient is not None and np.abs(gradient).max() > 1e-6, path


def test_tied_weights_learn_from_both_ends():
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    ids = np.array([[2, 3]], "int32")
    layer(ids)
    (gradient,) = weight_gradients(layer, lambda: layer(layer(ids), reverse=True)).values()
    assert gradient.shape == (VOCABULARY, DIM) and gradient.any(axis=1).all()


# Configuration


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
    positions = {"RotaryPosition", "AlibiPosition", "RelativePosition"}
    assert set(layers.__all__) == tested | positions
