"""LoRA by the names of layers: what is trained, what stays, and what is merged."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.layers.projection import Projection

IDS = np.array([[3, 1, 7, 2, 5], [4, 9, 10, 0, 0]])


@pytest.fixture
def model():
    model = kt.models.language_model(
        11, num_layers=2, dim=6, num_heads=3, intermediate_dim=13, norm="rms", position=kt.RotaryPosition
    )
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(rng.normal(size=variable.shape, scale=0.5))
    return model


def values(model):
    return {
        variable.path: keras.ops.convert_to_numpy(variable) for variable in model.weights if "seed" not in variable.path
    }


def train(model):
    model.compile(keras.optimizers.SGD(0.5), kt.training.SequenceCrossentropy())
    model.fit(IDS[:, :-1], IDS[:, 1:], verbose=0)


def test_what_is_not_named_stays_as_it_is(model):
    before, logits = values(model), keras.ops.convert_to_numpy(model(IDS))
    changed = kt.training.enable_lora(model, 2, layers=("query_key_value", "decoder_1/.*/inner"), train="decoder_norm")
    assert changed == [
        "decoder_0/self_attention/query_key_value",
        "decoder_1/feed_forward/inner",
        "decoder_1/self_attention/query_key_value",
    ]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(IDS)), logits, rtol=1e-6)
    assert len(model.trainable_variables) == 3 * 2 + 1
    train(model)
    after = values(model)
    different = {path for path, value in before.items() if not np.array_equal(value, after[path])}
    assert different == {"decoder_norm/scale"}
    assert all(np.any(after[path]) for path in after if "lora" in path)


def test_the_change_is_what_the_formula_says(model):
    kt.training.enable_lora(model, 2, layers="output", alpha=3.0)
    train(model)
    layer = model.get_layer("decoder_0").self_attention.output_projection
    a, b = (keras.ops.convert_to_numpy(x).astype("float64") for x in (layer.lora_kernel_a, layer.lora_kernel_b))
    expected = keras.ops.convert_to_numpy(layer._kernel) + 3.0 / 2 * a @ b
    logits = keras.ops.convert_to_numpy(model(IDS))
    assert kt.training.merge_lora(model) == ["decoder_0/self_attention/output", "decoder_1/self_attention/output"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.kernel), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(IDS)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_a_step_changes_the_factors_as_numpy_says(activation):
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(size=(2, 3, 7)), rng.normal(size=(2, 3, 5))
    inputs = keras.Input((3, 7))
    layer = Projection(5, activation=activation, name="changed")
    model = keras.Model(inputs, layer(inputs))
    kt.training.enable_lora(model, 2, layers="changed", alpha=3.0)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    matrix, bias, a, b = (
        keras.ops.convert_to_numpy(variable).astype("float64")
        for variable in (layer._kernel, layer.bias, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    product = x @ (matrix + 3.0 / 2 * a @ b) + bias
    expected = np.tanh(product) if activation else product
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), expected, rtol=1e-5, atol=1e-5)

    model.compile(keras.optimizers.SGD(0.1), loss=lambda y, z: keras.ops.sum(y * z, axis=-1))
    model.fit(x, upstream, batch_size=2, verbose=0)  # the loss is the mean over the 6 positions
    slope = (upstream * (1 - expected**2 if activation else 1) / 6).reshape(6, 5)
    gradient = 3.0 / 2 * x.reshape(6, 7).T @ slope  # of A B
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer.lora_kernel_a), a - 0.1 * gradient @ b.T, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer.lora_kernel_b), b - 0.1 * a.T @ gradient, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer._kernel), matrix.astype("float32"))


def test_merged_model_is_one_without_lora(model, tmp_path):
    paths = [variable.path for variable in model.weights]
    kt.training.enable_lora(model, 2)
    train(model)
    kt.training.merge_lora(model)
    assert [variable.path for variable in model.weights] == paths
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [variable.path for variable in loaded.weights] == paths
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loaded(IDS)), keras.ops.convert_to_numpy(model(IDS)), rtol=1e-5, atol=1e-6
    )
    assert len(model.trainable_variables) == len([path for path in paths if "seed" not in path])
    train(model)
    kt.training.enable_lora(model, 3)  # and once more


def test_a_second_call_goes_on(model):
    kt.training.enable_lora(model, 2)
    trained = [variable.path for variable in model.trainable_variables]
    kt.training.enable_lora(model, 2)
    assert [variable.path for variable in model.trainable_variables] == trained


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 0}, "positive rank, got 0"),
        ({"rank": 2, "layers": "self_attention"}, "no layers that LoRA can change for layers='self_attention'"),
        ({"rank": 2, "layers": ["inner", "outr"]}, "layers='outr'"),
        ({"rank": 2, "layers": "classes"}, "A keras.layers.Dense is not changed so; name it in `train`"),
        ({"rank": 2, "train": "head"}, "no layers for train='head'"),
    ],
)
def test_names_that_fit_nothing(model, options, message):
    model = keras.Model(model.input, keras.layers.Dense(3, name="classes")(model.output))
    with pytest.raises(ValueError, match=message):
        kt.training.enable_lora(model, **options)
    assert not any("lora" in variable.path for variable in model.weights)
