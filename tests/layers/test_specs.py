"""What comes out of every layer is what its symbolic call promised, for any batch, length and precision."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import (
    ATTENTION,
    CATALOGUE,
    DIM,
    HEADS,
    MASK,
    MEMORY_MASK,
    VOCABULARY,
    as_numpy,
    build,
)

BLOCKS = [name for name in ATTENTION if name.startswith(("Encoder", "Decoder"))]


def symbolic(inputs):
    """Inputs of unknown batch and length, of the widths and dtypes of `inputs`."""
    return [keras.KerasTensor((None, None, *x.shape[2:]), dtype=str(x.dtype)) for x in inputs]


def check_spec(spec, outputs):
    """Check that a spec says of rank, sizes and dtype what the outputs are, as far as it knows."""
    keras.tree.assert_same_structure(spec, outputs)
    for expected, output in zip(keras.tree.flatten(spec), keras.tree.flatten(outputs), strict=True):
        assert len(expected.shape) == len(output.shape)
        assert all(a is None or a == b for a, b in zip(expected.shape, output.shape, strict=True))
        assert expected.dtype == keras.backend.standardize_dtype(output.dtype)


@pytest.mark.parametrize("name", CATALOGUE)
def test_output_spec_is_what_comes_out(name):
    layer, inputs = build(name)
    spec = layer.compute_output_spec(*symbolic(inputs))
    assert spec.shape == ((None, DIM) if name == "MaskedPooling" else (None, None, DIM))
    check_spec(spec, layer(*inputs))


@pytest.mark.parametrize("name", [name for name in CATALOGUE if "all options" in name])
def test_output_spec_in_mixed_precision_is_what_comes_out(name):
    layer, inputs = build(name, dtype="mixed_bfloat16")
    check_spec(layer(*symbolic(inputs)), layer(*inputs))


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
