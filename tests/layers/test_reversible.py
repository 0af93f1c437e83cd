"""`ReversibleNormalization` is the paper's formula over real time steps, and its inverse; nothing is kept."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import BATCH, DIM, LENGTH, MASK, X, as_numpy, gradients, randomize

EMPTY = np.where(np.arange(BATCH)[:, None] == 1, False, MASK)  # the second row has no step
SERIES = 5.0 + 3.0 * X
FORECAST = np.random.default_rng(21).normal(size=(BATCH, 7, DIM)).astype("float32")


def made(**options):
    layer = kt.ReversibleNormalization(**options)
    layer.build((None, None, DIM))
    randomize(layer)
    return layer


def by_hand(layer, x, mask):
    """Mean, deviation, scale and shift in float64, one row at a time: a function of values, and its inverse."""
    x = np.where(mask[..., None], x, np.nan).astype("float64")
    gamma, beta = (as_numpy(w).astype("float64") for w in layer.weights) if layer.affine else (1.0, 0.0)
    means, deviations = [], []
    for row, real in zip(x, mask, strict=True):
        values = row[real] if real.any() else np.zeros((1, DIM))
        means.append(values.mean(axis=0))
        deviations.append(np.sqrt(values.var(axis=0) + layer.epsilon))
    mean, deviation = np.stack(means)[:, None], np.stack(deviations)[:, None]
    return (
        lambda y: (y - mean) / deviation * gamma + beta,
        lambda y: (y - beta) / gamma * deviation + mean,
    )


@pytest.mark.parametrize("affine", [True, False], ids=["affine", ""])
@pytest.mark.parametrize("mask", [None, MASK, EMPTY, EMPTY.astype("float32")], ids=["", "padded", "empty", "floats"])
def test_is_the_formula_and_its_inverse(affine, mask, assert_close):
    layer = made(affine=affine, epsilon=0.1)
    real = np.ones(MASK.shape, bool) if mask is None else mask.astype(bool)
    there, back = by_hand(layer, SERIES, real)
    x = np.where(real[..., None], SERIES, np.float32("nan"))  # what lies under padding does not matter
    assert_close(layer(x, mask=mask), np.where(real[..., None], there(SERIES), 0.0))
    assert_close(layer(FORECAST, reference=x, reverse=True, reference_mask=mask), back(FORECAST))
    assert_close(layer(FORECAST, reference=x, reference_mask=mask), there(FORECAST), 1e-4)


def test_comes_back_as_it_was(assert_close):
    layer = made()
    large = np.concatenate([1e6 + 1e3 * X[..., :-1], np.full_like(X[..., -1:], 7.0)], axis=-1)  # one does not change
    back = layer(layer(large), reference=large, reverse=True)
    np.testing.assert_allclose(as_numpy(back), large, rtol=1e-6, atol=1e-5)
    assert_close(made(affine=False)(large)[..., -1], np.zeros((BATCH, LENGTH)))


def test_a_model_that_normalizes_several_series_keeps_them_apart(assert_close):
    """Traced twice, with one layer for two series whose ways cross: whatever was kept of a call would show."""
    one, other = keras.Input((None, DIM)), keras.Input((None, DIM))
    norm = made()
    a, b = norm(one), norm(other)
    model = keras.Model([one, other], [norm(b, reference=one, reverse=True), norm(a, reference=other, reverse=True)])
    twice = keras.Model(model.inputs, model([model.outputs[1], model.outputs[0]]))
    x, y = SERIES, 2.0 * FORECAST - 9.0
    (to_x, from_x), (to_y, from_y) = (by_hand(norm, z, np.ones(z.shape[:2], bool)) for z in (x, y))
    assert_close(model([x, y]), [from_x(to_y(y)), from_y(to_x(x))], 1e-4)
    first, second = from_x(to_y(y)), from_y(to_x(x))
    (to_a, from_a), (to_b, from_b) = (by_hand(norm, z, np.ones(z.shape[:2], bool)) for z in (second, first))
    assert_close(twice([x, y]), [from_a(to_b(first)), from_b(to_a(second))], 1e-3)


@pytest.mark.filterwarnings("ignore:Layer 'flatten")
def test_masks_that_keras_carries_reach_it(assert_close, tmp_path):
    """The padding of the reference counts on the way back, and that of the input on the way there."""
    inputs = keras.Input((LENGTH, DIM))
    series = keras.layers.Masking(-99.0)(inputs)
    norm = made()
    normal = norm(series)
    forecast = keras.layers.Reshape((7, DIM))(keras.layers.Dense(7 * DIM)(keras.layers.Flatten()(normal)))
    model = keras.Model(inputs, [normal, norm(forecast, reference=series, reverse=True), forecast])
    x = np.where(MASK[..., None], SERIES, np.float32(-99.0))
    found = model(x)
    there, back = by_hand(norm, SERIES, MASK)
    assert_close(found[0], np.where(MASK[..., None], there(SERIES), 0.0))
    assert_close(found[1], back(as_numpy(found[2])), 1e-4)
    assert getattr(model.outputs[0], "_keras_mask", None) is not None
    assert getattr(model.outputs[1], "_keras_mask", None) is None
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(x), found)


def test_a_mask_that_was_dropped_on_the_way_is_told():
    series, forecast = keras.layers.Masking()(keras.Input((LENGTH, DIM))), keras.Input(FORECAST.shape[1:])
    with pytest.warns(UserWarning, match="mask was dropped by the operation Multiply"):
        kt.ReversibleNormalization()(forecast, reference=series * 2.0, reverse=True)


def test_no_gradient_flows_into_padding():
    layer = made()
    x = np.where(EMPTY[..., None], SERIES, np.float32(0.0))
    ((gradient,),) = gradients(lambda x: layer(x, mask=EMPTY), x, cotangents=[FORECAST[:, :LENGTH]])
    assert np.isfinite(gradient).all() and gradient[EMPTY].any()
    assert not gradient[~EMPTY].any()
    # A row that is shifted and scaled stays the same when it is normalized.
    layer.epsilon = 1e-12
    ((gradient,),) = gradients(lambda x: layer(x, mask=MASK), SERIES, cotangents=[FORECAST[:, :LENGTH]])
    np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose((gradient * SERIES).sum(axis=1), 0.0, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "mixed_bfloat16"])
def test_half_precision_is_of_what_comes_out_alone(policy, assert_close):
    layer, full = kt.ReversibleNormalization(dtype=policy), kt.ReversibleNormalization()
    large = (1e5 * SERIES).astype("float32")  # beyond float16
    normal = layer(large)
    assert keras.backend.standardize_dtype(normal.dtype) == layer.compute_dtype
    assert_close(as_numpy(normal), full(large), 1e-2)
    back = layer(FORECAST, reference=large, reverse=True)
    assert keras.backend.standardize_dtype(back.dtype) == "float32"
    assert_close(back, full(FORECAST, reference=large, reverse=True), 1e-3)


def test_integers_are_numbers(assert_close):
    counts = np.arange(BATCH * LENGTH * DIM).reshape(BATCH, LENGTH, DIM) % 17
    layer = made()
    assert_close(layer(counts.astype("int32")), layer(counts.astype("float32")))
    assert_close(
        layer(FORECAST, reference=counts.astype("int32"), reverse=True),
        layer(FORECAST, reference=counts.astype("float32"), reverse=True),
    )


def test_scale_and_shift_are_learned():
    inputs = keras.Input((LENGTH, DIM))
    norm = kt.ReversibleNormalization(beta_regularizer="l2", gamma_constraint="non_neg")
    model = keras.Model(inputs, norm(norm(inputs) ** 2, reference=inputs, reverse=True))
    assert sorted(w.name for w in model.trainable_weights) == ["beta", "gamma"]
    assert len(model.losses) == 1
    model.compile(keras.optimizers.SGD(0.05), "mse")
    before = [as_numpy(w).copy() for w in model.weights]
    losses = model.fit(SERIES, SERIES + 1.0, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all((as_numpy(w) != x).all() for w, x in zip(model.weights, before, strict=True))


def test_what_it_refuses():
    layer = made(name="norm")
    for call, message in {
        lambda: layer(FORECAST, reverse=True): "'norm' keeps no mean and no variance.*reference=",
        lambda: layer(SERIES[0]): "takes inputs of shape",
        lambda: layer(SERIES[..., :3]): f"takes inputs of width {DIM}, got width 3",
        lambda: layer(FORECAST, reference=SERIES[..., :3], reverse=True): f"takes reference of width {DIM}",
        lambda: layer(FORECAST, reference=SERIES[:1], reverse=True): f"of as many rows as the inputs, {BATCH}, got 1",
        lambda: layer(SERIES[:1], reference=SERIES): f"of as many rows as the inputs, 1, got {BATCH}",
        lambda: layer.compute_output_spec(
            keras.KerasTensor(FORECAST.shape), keras.KerasTensor(SERIES[1:].shape), reverse=True
        ): f"of as many rows as the inputs, {BATCH}, got {BATCH - 1}",
        lambda: layer(SERIES, mask=np.where(MASK, 0.0, -1e9)): "additive mask",
        lambda: layer(SERIES, mask=MASK[:, :3]): "mask",
        lambda: kt.ReversibleNormalization(epsilon=0.0): "positive epsilon",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_a_mask_of_the_forecast_is_ignored_in_reverse(assert_close):
    layer = made()
    back = layer(FORECAST, reference=SERIES, reverse=True)
    masked = layer(FORECAST, reference=SERIES, reverse=True, mask=np.arange(7) < np.array([[7], [3], [1]]))
    assert_close(masked, back, 0)


def test_a_scale_of_zero_has_no_way_back():
    layer = made()
    layer.gamma.assign(np.zeros(DIM))
    assert not np.isfinite(as_numpy(layer(FORECAST, reference=SERIES, reverse=True))).any()


def test_a_generator_refuses_what_looks_ahead():
    """The mean over time knows what is to come."""
    tokens = keras.Input((None,), dtype="int32")
    embedding = kt.TokenEmbedding(29, 8)
    x = kt.DecoderLayer(1, 8)(kt.ReversibleNormalization(name="norm")(embedding(tokens)))
    model = keras.Model(tokens, embedding(x, reverse=True))
    with pytest.raises(ValueError, match="ReversibleNormalization 'norm'"):
        kt.Generator(model, max_length=11, end_token=3)


@pytest.mark.tensorflow
def test_litert_gives_the_same(tmp_path, assert_close):
    inputs = keras.Input((LENGTH, DIM), name="history")
    norm = made()
    model = keras.Model(inputs, norm(ops.tanh(norm(inputs)), reference=inputs, reverse=True))
    kt.export.litert(model, tmp_path / "model.tflite")
    found = kt.export.load(tmp_path / "model.tflite")(SERIES[:1])
    assert_close(next(iter(found.values())), as_numpy(model(SERIES[:1])), 1e-4)
