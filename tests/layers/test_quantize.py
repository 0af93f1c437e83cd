"""Projections and token tables are quantized, and take LoRA, as Keras' own Dense and embeddings do."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.layers.projection import Projection

from .helpers import CATALOGUE, VOCABULARY, as_numpy, gradients

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

DIM, WIDTH, UNITS = 13, 30, 17
IDS = np.random.default_rng(1).integers(1, VOCABULARY, (5, 7)).astype("int32")
X = np.random.default_rng(2).normal(size=(2, 3, DIM)).astype("float32")
LARGE = ("kernel", "embeddings")


def small_model(**options):
    keras.utils.set_random_seed(0)
    return kt.models.language_model(
        VOCABULARY, num_layers=1, dim=WIDTH, num_heads=3, intermediate_dim=38, dropout=0.0, **options
    )


def size(model) -> int:
    return sum(as_numpy(x).nbytes for x in model.weights)


def distance(a, b) -> float:
    """Of two arrays, the root mean square of the difference, as a part of that of the second."""
    a, b = as_numpy(a), as_numpy(b)
    return float(np.sqrt(np.square(a - b).mean() / np.square(b).mean()))


@pytest.mark.parametrize(("mode", "nearest", "smallest"), [("int8", 0.02, 0.35), ("int4", 0.2, 0.25)])
def test_a_quantized_model_is_small_and_near_and_survives_a_file(mode, nearest, smallest, tmp_path):
    model, before = small_model(), small_model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.quantize(mode)
    assert {str(x.message).split()[1] for x in caught if "quantize" in str(x.message)} <= {"InputLayer"}
    assert {str(x.dtype) for x in model.weights if x.name in LARGE} == {"int8"}
    assert size(model) < smallest * size(before)
    logits = model(IDS)
    assert 0 < distance(logits, before(IDS)) < nearest
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(as_numpy(loaded(IDS)), as_numpy(logits))
    assert [x.dtype for x in loaded.weights] == [x.dtype for x in model.weights]
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(as_numpy(clone(IDS)), as_numpy(logits))


@pytest.mark.parametrize("mode", [pytest.param("int8", marks=pytest.mark.slow), "int4"])
def test_a_quantized_model_in_half_precision_survives_a_file(mode, tmp_path):
    """Which has no policy of its own then: a functional model's configuration tells none."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    model.quantize(mode)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(as_numpy(loaded(IDS)), as_numpy(model(IDS)))
    assert keras.backend.standardize_dtype(model.get_layer("embedding")(IDS).dtype) == "bfloat16"


@pytest.mark.parametrize("mode", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_a_quantized_model_generates_as_without_a_cache(mode):
    model = small_model(position=kt.RotaryPosition)
    model.quantize(mode)
    answers = [
        kt.Generator(model, max_length=11, end_token=3, cache=cache, jit_compile=False)(IDS[:2, :3])["tokens"]
        for cache in (True, False)
    ]
    tokens = IDS[:2, :3]
    for _ in range(8):
        last = as_numpy(model(tokens))[:, -1].copy()
        last[:, 0] = -np.inf
        tokens = np.concatenate([tokens, last.argmax(-1)[:, None]], axis=1)
    for answer in answers:
        for row, expected in zip(answer[:, 0], tokens, strict=True):
            ends = np.flatnonzero(expected == 3)
            length = ends[0] + 1 if len(ends) else len(expected)
            np.testing.assert_array_equal(row[:length], expected[:length])


# One layer beside Keras' own with the same weights


def pair(adapted=False):
    ours, theirs = Projection(UNITS), keras.layers.Dense(UNITS)
    for layer in (ours, theirs):
        layer.build((None, None, DIM))
    theirs.set_weights(ours.get_weights())
    if adapted:
        for layer in (ours, theirs):
            layer.enable_lora(2, lora_alpha=3.0)
            layer.lora_kernel_a.assign(np.random.default_rng(5).normal(size=(DIM, 2)))
            layer.lora_kernel_b.assign(np.random.default_rng(6).normal(size=(2, UNITS)))
    return ours, theirs


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_projection_is_quantized_as_dense_is(mode, adapted, assert_close):
    if mode == "float8" and (adapted or keras.backend.backend() == "torch"):
        pytest.skip("Keras has no float8 with LoRA, and none on PyTorch")
    ours, theirs = pair(adapted)
    for layer in (ours, theirs):
        layer.quantize(mode)
    assert ours.dtype_policy == theirs.dtype_policy
    assert_close(ours(X), theirs(X))
    assert [x.dtype for x in ours.weights] == [x.dtype for x in theirs.weights]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        keras.quantizers.Int8QuantizationConfig(),
        keras.quantizers.Int8QuantizationConfig(activation_quantizer=None),
        keras.quantizers.Int4QuantizationConfig(block_size=5),
        keras.quantizers.Int4QuantizationConfig(block_size=-1),
    ],
    ids=["int8", "int8, weights only", "int4 in blocks", "int4"],
)
def test_a_table_is_quantized_both_ways(config, adapted, assert_close):
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    layer.build()
    table = as_numpy(layer._embeddings)
    layer.quantize(config=config)
    ids = np.arange(VOCABULARY)[None]
    rounded = as_numpy(layer(ids))[0]  # what the quantized table holds
    assert 0 < distance(rounded, table) < (0.01 if config.mode == "int8" else 0.2)
    if adapted:
        layer.enable_lora(2, lora_alpha=3.0)
        a, b = np.random.default_rng(5).normal(size=(VOCABULARY, 2)), np.random.default_rng(6).normal(size=(2, DIM))
        layer.lora_embeddings_a.assign(a)
        layer.lora_embeddings_b.assign(b)
        rounded = rounded + 1.5 * (a @ b)
        assert_close(layer(ids)[0], rounded.astype("float32"), 1e-5)
    logits = X @ rounded.T
    assert distance(layer(X, reverse=True), logits) < (0.02 if config.activation_quantizer else 1e-5)
    if config.activation_quantizer and not adapted:
        theirs = keras.layers.ReversibleEmbedding(VOCABULARY, DIM)
        theirs.build()
        theirs.set_weights([table])
        theirs.quantize(config=config)
        assert_close(layer(X, reverse=True), theirs(X, reverse=True))


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_bias_of_a_table_stays_and_is_saved(mode, adapted, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    table = kt.TokenEmbedding(VOCABULARY, DIM, output_bias=True)
    model = keras.Model(ids, table(table(ids), reverse=True))
    table.bias.assign(np.random.default_rng(3).normal(size=VOCABULARY))
    if mode is not None:
        model.quantize(mode)
    if adapted:
        table.enable_lora(2)
        table.lora_embeddings_b.assign(np.random.default_rng(4).normal(size=(2, DIM)))
    logits = as_numpy(model(IDS))
    model.save(tmp_path / "model.keras")
    loaded, clone = keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for other in (loaded, clone):
        np.testing.assert_allclose(as_numpy(other(IDS)), logits, rtol=0, atol=1e-6)
    bias = as_numpy(table.bias)
    table.bias.assign(np.zeros(VOCABULARY))
    np.testing.assert_allclose(logits - as_numpy(model(IDS)), np.broadcast_to(bias, logits.shape), atol=1e-5)


def test_the_gradient_goes_through_a_quantized_table():
    """Rounding has none, so that what lies before the logits would learn from noise."""
    if keras.backend.backend() == "torch":
        pytest.skip("the helper takes gradients on TensorFlow and JAX")
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    layer.build()
    layer.quantize("int8")
    table = as_numpy(layer(np.arange(VOCABULARY)[None]))[0]
    cotangent = np.random.default_rng(3).normal(size=(2, 3, VOCABULARY)).astype("float32")
    [(found,)] = gradients(lambda x: layer(x, reverse=True), X, cotangents=[cotangent])
    np.testing.assert_allclose(found, cotangent @ table, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int8_from_float32", "int8_from_mixed_bfloat16", "int4/-1_from_float32"])
def test_a_layer_made_with_a_quantized_policy_takes_quantized_weights(policy):
    mode, source = policy.split("/")[0].split("_")[0], policy.split("_from_")[1]
    config = keras.quantizers.Int4QuantizationConfig(block_size=-1) if mode == "int4" else None
    x = np.random.default_rng(4).normal(size=(2, 5, WIDTH)).astype("float32")
    for build in (
        lambda dtype: kt.EncoderLayer(2, 38, norm="rms", qk_norm=True, position=kt.RelativePosition(6, 5), dtype=dtype),
        lambda dtype: kt.DecoderLayer(2, 38, gated=True, dropout=0.1, dtype=dtype),
    ):
        layer, made = build(source), build(policy)
        layer(x), made(x)
        for part in layer._flatten_layers():
            if isinstance(part, Projection):
                part.quantize(mode, config=config)
        made.set_weights(layer.get_weights())
        np.testing.assert_array_equal(as_numpy(made(x)), as_numpy(layer(x)))
        assert {str(w.dtype) for w in made.weights if w.name == "kernel"} == {"int8"}
        assert "parts" not in made.get_config()


@pytest.mark.filterwarnings("ignore:The matrices of the experts .*_outer")
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_layer_takes_a_quantized_policy_or_says_that_it_cannot(name):
    keras.config.set_dtype_policy("int8_from_float32")
    try:
        layer, inputs = CATALOGUE[name]()
        if name == "RecurrentDecoderLayer":
            with pytest.raises(NotImplementedError, match="LSTM"):  # which is Keras' own
                layer(*inputs)
            return
        if "xperts" in name:
            with pytest.warns(UserWarning, match="experts_inner' stay in float"):
                assert np.isfinite(as_numpy(layer(*inputs))).all()
            return
        assert np.isfinite(as_numpy(layer(*inputs))).all()
    finally:
        keras.config.set_dtype_policy("float32")
    kernels = {str(w.dtype) for w in layer.weights if w.name == "kernel"}
    assert kernels <= {"float32" if name.startswith(("Patch", "Convo")) else "int8"}


def test_one_part_alone_is_quantized(tmp_path):
    x = keras.Input((5, WIDTH))
    model = keras.Model(x, kt.EncoderLayer(2, 38)(x))
    model.layers[1].feed_forward.inner.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(4).normal(size=(2, 5, WIDTH)).astype("float32")
    np.testing.assert_array_equal(as_numpy(loaded(x)), as_numpy(model(x)))
    assert [w.path.split("/")[-2] for w in loaded.weights if str(w.dtype) == "int8"] == ["inner"]


def test_what_cannot_be_quantized_raises():
    layer = kt.EncoderLayer(2, 38)
    layer(np.ones((1, 3, WIDTH), "float32"))
    with pytest.raises(NotImplementedError, match="EncoderLayer"):  # its parts can
        layer.quantize("int8")
    table = kt.TokenEmbedding(VOCABULARY, DIM)
    table.build()
    with pytest.raises(NotImplementedError, match="float8"):
        table.quantize("float8")
    with pytest.raises(ValueError, match="isn't yet built"):
        kt.TokenEmbedding(VOCABULARY, DIM).quantize("int8")
    half = kt.TokenEmbedding(VOCABULARY, DIM, dtype="mixed_float16")
    half.build()
    with pytest.raises(ValueError, match="float16"):
        half.quantize("int8")
    table.quantize("int8")
    with pytest.raises(ValueError, match="already quantized"):
        table.quantize("int8")
    with pytest.raises(NotImplementedError, match="Mine"):
        mine = Mine(UNITS)
        mine.build((None, None, DIM))
        mine.quantize("int8")


class Mine(Projection):
    """A user's own, of which nobody knows what it computes."""

    def call(self, inputs, training=None):
        return ops.sin(super().call(inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_lora_that_was_saved_is_not_lost_in_a_quantized_matrix(tmp_path):
    model, other = small_model(), small_model()
    for x in (model, other):
        x.quantize("int8")
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"enable_lora\(2\)"):
        other.load_weights(tmp_path / "model.weights.h5")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_model_is_trained_by_lora_and_survives_a_file(mode, tmp_path):
    model = small_model()
    model.quantize(mode)
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2, lora_alpha=4.0)
    model.compile(keras.optimizers.Adam(0.02), kt.training.SequenceCrossentropy(), jit_compile=False)
    losses = model.fit(IDS, np.roll(IDS, -1, 1), epochs=4, batch_size=5, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(as_numpy(loaded(IDS)), as_numpy(model(IDS)), rtol=0, atol=1e-6)
    again = [
        x.fit(IDS, np.roll(IDS, -1, 1), batch_size=5, shuffle=False, verbose=0).history["loss"] for x in (model, loaded)
    ]
    np.testing.assert_allclose(*again, rtol=1e-5)
