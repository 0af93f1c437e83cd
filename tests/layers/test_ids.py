"""Ids, positions and segments: exact whatever the precision, and NaN for what is not the number of a row."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import DIM, INNER, as_numpy, weight_gradients

BACKEND = keras.backend.backend()
VOCABULARY, LENGTH = 4099, 4111  # beyond what half precision counts: 256 and 2048
TABLE = np.random.default_rng(1).normal(size=(VOCABULARY, 3)).astype("float32")
IDS = np.array([[1, 255, 257, 2047], [2049, 2051, 4097, 4098]])


def compiled(function, *arguments, jit):
    """The function's answer where it does not know the values of its arguments."""
    if BACKEND == "jax":
        import jax

        return as_numpy(jax.jit(function)(*arguments))
    import tensorflow as tf

    specs = [tf.TensorSpec((None, None, *np.shape(x)[2:]), np.asarray(x).dtype) for x in arguments]
    if jit:  # under XLA lengths are known
        specs = [tf.TensorSpec(np.shape(x), np.asarray(x).dtype) for x in arguments]
    return as_numpy(tf.function(function, input_signature=specs, jit_compile=jit)(*arguments))


needs_compiler = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs eagerly: values are known, and checked")
jits = pytest.mark.parametrize("jit", [False, True] if BACKEND == "tensorflow" else [True])


def embedding(kind="float", **options):
    layer = kt.TokenEmbedding(VOCABULARY, 3, weights=[TABLE], **options)
    if kind in ("int8", "int4"):
        layer.quantize(kind)
    if kind == "lora":
        layer.enable_lora(2)
        layer.lora_embeddings_b.assign(np.ones((2, 3)))
    return layer


# Beyond the table


@needs_compiler
@jits
@pytest.mark.parametrize("kind", ["float", "int8", "int4", "lora"])
def test_an_id_beyond_the_table_is_nan(kind, jit):
    layer = embedding(kind, scale=True)
    right = as_numpy(layer(IDS))
    wrong = np.array([[-1, 4099, -4099, 2**31 - 1], [2049, 2051, 4097, 4098]], "int32")
    found = compiled(layer, wrong, jit=jit)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], right[1], rtol=1e-5, atol=1e-6)


@needs_compiler
@jits
def test_float_ids_that_are_no_integers_are_nan(jit):
    wrong = np.array([[2.5, -0.5, np.nan, np.inf, 4098.5, 4098.0]], "float32")
    found = compiled(embedding(), wrong, jit=jit)
    np.testing.assert_array_equal(np.isnan(found[0]).all(-1), [True] * 5 + [False])
    np.testing.assert_allclose(found[0, 5], TABLE[4098], rtol=1e-6)


@pytest.mark.tensorflow
@jits
@pytest.mark.parametrize("dtype", ["int64", "uint8", "int16", "uint32"])
def test_ids_of_any_integer_type(dtype, jit):
    ids = np.array([[1, 3, 255]], dtype)
    expected = TABLE[ids.astype(int)]
    if dtype == "int64":
        ids = np.concatenate([ids, [[2**32 + 5]]], axis=1)  # 5, if it is cut to 32 bits
        expected = np.concatenate([expected, np.full((1, 1, 3), np.nan)], axis=1)
    np.testing.assert_allclose(compiled(embedding(), ids, jit=jit), expected, rtol=1e-6)


@needs_compiler
@jits
def test_a_position_beyond_the_table_is_nan(jit):
    layer = kt.LearnedPositionalEncoding(7)
    x = np.zeros((1, 5, DIM), "float32")
    layer(x)
    table = as_numpy(layer.embeddings)
    found = compiled(lambda x, p: layer(x, positions=p), x, np.array([[0, 6, 7, -1, 100]], "int32"), jit=jit)
    np.testing.assert_allclose(found[0, :2], table[[0, 6]], rtol=1e-6)
    assert np.isnan(found[0, 2:]).all()


@pytest.mark.tensorflow
def test_a_length_beyond_the_table_is_nan_where_it_is_not_known():
    layer = kt.LearnedPositionalEncoding(7)
    layer(np.zeros((1, 5, DIM), "float32"))
    found = compiled(layer, np.zeros((1, 9, DIM), "float32"), jit=False)
    np.testing.assert_array_equal(np.isnan(found[0]).all(-1), [False] * 7 + [True] * 2)


@needs_compiler
@jits
def test_training_on_unknown_ids_does_not_go_on_unnoticed(jit):
    ids = keras.Input((None,), dtype="int32")
    x = kt.EncoderLayer(1, INNER)(kt.TokenEmbedding(19, DIM)(ids))
    model = keras.Model(ids, keras.layers.Dense(19)(x))
    model.compile("sgd", kt.training.SequenceCrossentropy(), jit_compile=jit)
    known = np.linspace(1, 18, 14).astype("int32").reshape(2, 7)
    assert np.isfinite(model.evaluate(known, known, verbose=0))
    unknown = np.where(known == 18, 19, known)
    assert np.isnan(model.evaluate(unknown, known, verbose=0))


def test_rows_that_are_not_asked_for_have_no_part_in_the_gradient():
    layer = kt.TokenEmbedding(11, 3)
    layer(np.array([[1, 2]]))
    [gradient] = weight_gradients(layer, lambda: layer(np.array([[2, 5, 2]]))).values()
    np.testing.assert_array_equal(np.flatnonzero(np.abs(gradient).sum(1)), [2, 5])


# Floats


def through_model(layer, *arrays, **named):
    """What a layer gives as part of a model whose inputs have no dtype, and so are floats."""
    symbols = [keras.Input(x.shape[1:]) for x in (*arrays, *named.values())]
    given = dict(zip(named, symbols[len(arrays) :], strict=True))
    model = keras.Model(symbols, layer(*symbols[: len(arrays)], **given))
    return as_numpy(model([np.asarray(x, "float32") for x in (*arrays, *named.values())]))


x = np.random.default_rng(2).normal(size=(2, 4, DIM)).astype("float32")
memory = np.random.default_rng(3).normal(size=(2, 3, DIM)).astype("float32")
# Neighbours that half precision takes for equal.
segments, memory_segments = np.array([[2049, 2049, 2050, 2050]] * 2), np.array([[2049, 2050, 2050]] * 2)
CASES = {
    "TokenEmbedding": (lambda: kt.TokenEmbedding(VOCABULARY, 3), (IDS,), {}),
    "PositionalEncoding": (lambda: kt.PositionalEncoding(50.0), (x,), {"positions": IDS}),
    "LearnedPositionalEncoding": (lambda: kt.LearnedPositionalEncoding(LENGTH), (x,), {"positions": IDS}),
    "MultiHeadSelfAttention": (lambda: kt.MultiHeadSelfAttention(1), (x,), {"segment_ids": segments}),
    "EncoderLayer": (lambda: kt.EncoderLayer(1, INNER), (x,), {"segment_ids": segments}),
    "DecoderLayer": (
        lambda: kt.DecoderLayer(1, INNER),
        (x, memory),
        {"segment_ids": segments, "memory_segment_ids": memory_segments},
    ),
    "MultiHeadCrossAttention": (
        lambda: kt.MultiHeadCrossAttention(1),
        (x, memory),
        {"segment_ids": segments, "memory_segment_ids": memory_segments},
    ),
    "Remat": (lambda: kt.training.Remat(kt.DecoderLayer(1, INNER)), (x,), {"segment_ids": segments}),
}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_floats_are_not_rounded_in_half_precision(name, policy):
    make, arrays, named = CASES[name]
    keras.config.set_dtype_policy(policy)
    try:
        layer = make()
        with_integers = as_numpy(layer(*arrays, **{key: value.astype("int32") for key, value in named.items()}))
        assert str(layer.compute_dtype) == policy.removeprefix("mixed_")
        np.testing.assert_array_equal(through_model(layer, *arrays, **named), with_integers)
    finally:
        keras.config.set_dtype_policy("float32")
    if named:  # and it matters which they are
        others = {key: 0 * value for key, value in named.items()}
        assert np.abs(as_numpy(layer(*arrays, **others)) - with_integers).max() > 1e-2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_rows_are_the_right_ones_in_half_precision(policy):
    layer = kt.TokenEmbedding(VOCABULARY, 3, weights=[TABLE], dtype=policy)
    found = through_model(layer, IDS)
    np.testing.assert_allclose(found, TABLE[IDS], rtol=1e-2, atol=1e-3)
    logits = layer(x[..., :3], reverse=True)
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    np.testing.assert_allclose(as_numpy(logits), x[..., :3] @ TABLE.T, rtol=5e-2, atol=5e-2)


def test_positions_may_be_given_by_place():
    layer = kt.PositionalEncoding(dtype="mixed_bfloat16")
    symbols = [keras.Input((4, DIM)), keras.Input((4,))]
    model = keras.Model(symbols, layer(*symbols))
    np.testing.assert_array_equal(as_numpy(model([x, IDS.astype("float32")])), as_numpy(layer(x, IDS)))


BAD = {
    "fraction": (lambda: kt.TokenEmbedding(11, 3)(np.array([[1.0, 2.5]], "float32")), "takes ids as integers, got 2.5"),
    "nan": (lambda: kt.TokenEmbedding(11, 3)(np.array([[1.0, np.nan]], "float32")), "takes ids as integers, got nan"),
    "beyond": (lambda: kt.TokenEmbedding(11, 3)(np.array([[1.0, 11.0]], "float32")), "from 0 to 10"),
    "half precision": (
        lambda: kt.TokenEmbedding(VOCABULARY, 3)(ops.cast(IDS, "float16")),
        r"ids up to 4098 as integers, got float16, which holds integers up to 2048 only.*dtype='int32'",
    ),
    "a large table": (
        lambda: kt.TokenEmbedding(2**24 + 2, 1).compute_output_spec(keras.KerasTensor((1, 2), "float32")),
        "holds integers up to 16777216 only",
    ),
    "position, learned": (
        lambda: kt.LearnedPositionalEncoding(7)(x, positions=np.array([[0, 1, 2, 7]])),
        "takes positions from 0 to 6, got positions from 0 to 7",
    ),
    "position, negative": (lambda: kt.LearnedPositionalEncoding(7)(x, np.array([[0, 1, 2, -1]])), "from -1 to 2"),
    "position, fraction": (lambda: kt.PositionalEncoding()(x, np.array([[0, 1, 2, 0.5]])), "positions .*got 0.5"),
    "position, large": (
        lambda: kt.PositionalEncoding()(x, np.array([[0, 1, 2, 2.0**25]], "float32")),
        "float32 beyond 16777216",
    ),
    "segment, fraction": (
        lambda: kt.EncoderLayer(1, INNER)(x, segment_ids=np.array([[1.0, 1.0, 1.5, 2.0]] * 2)),
        "segment_ids as integers, got 1.5",
    ),
    "segment, list": (
        lambda: kt.EncoderLayer(1, INNER)(x, segment_ids=[[1, 1, 1.5, 2]] * 2),
        "segment_ids as integers, got 1.5",
    ),
    "position, list": (lambda: kt.PositionalEncoding()(x, positions=[[0, 1, 2, 0.5]]), "positions .*got 0.5"),
    "segment, large": (
        lambda: kt.DecoderLayer(1, INNER)(x, memory, memory_segment_ids=np.full((2, 3), 2.0**25, "float32")),
        "memory_segment_ids as integers, got float32 beyond 16777216",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_floats_that_are_no_ids_raise(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
