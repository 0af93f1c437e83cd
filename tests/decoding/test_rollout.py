"""`Rollout` gives, with its cache, what a plain loop over the whole model gives, for whatever a Generator decodes."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.ops.random import uniforms

BATCH, LENGTH, CHANNELS, STEPS = 3, 7, 2, 5
SERIES = np.random.default_rng(1).normal(size=(BATCH, LENGTH, CHANNELS)).astype("float32")
LENGTHS = np.array([7, 1, 4], "int32")
SOURCE = np.random.default_rng(2).normal(size=(BATCH, 3, 11)).astype("float32")


@keras.saving.register_keras_serializable("test_rollout")
def sample(outputs, uniform):
    """A location and a width for each channel; two kinds of random numbers."""
    place, width = ops.split(outputs, 2, axis=-1)
    return ops.tanh(place) + 0.1 * ops.softplus(width) * (uniform(CHANNELS) - 0.5) + 0.01 * uniform(1)


def made(*blocks, source=False, length=None):
    """A causal model of values; random weights, so that all of it shows."""
    keras.utils.set_random_seed(3)
    series = keras.Input((length, CHANNELS), name="series")
    sources = [keras.Input((None, 11), name="source")] if source else []
    x = keras.layers.Dense(12)(series)
    memory = [kt.EncoderLayer(2, 8)(keras.layers.Dense(12)(x)) for x in sources]
    for block in blocks:
        x = block(x, *memory)
    model = keras.Model([*sources, series], keras.layers.Dense(2 * CHANNELS)(x))
    random = np.random.default_rng(4)
    model.set_weights([0.4 * random.normal(size=w.shape) for w in model.get_weights()])
    return model


MODELS = {
    "decoder": lambda: made(kt.PositionalEncoding(), kt.DecoderLayer(2, 16), kt.DecoderLayer(2, 16)),
    "rotary, window": lambda: made(kt.DecoderLayer(2, 16, position=kt.RotaryPosition(), window=3)),
    "recurrent": lambda: made(kt.RecurrentDecoderLayer(12, "gru")),
    "encoder-decoder": lambda: made(kt.DecoderLayer(2, 16, position=kt.AlibiPosition()), source=True),
    "each step alone": lambda: made(keras.layers.Dense(7, "relu")),
}


def by_hand(model, lengths, num_samples, seeds, scenarios):
    """One scenario after another, the whole model at each step."""
    answer = np.zeros((BATCH, num_samples, STEPS, CHANNELS))
    columns = np.arange(CHANNELS + 1, dtype="int32")
    width = LENGTH + STEPS  # one shape, that JAX compiles once
    sources = [SOURCE] if len(model.inputs) > 1 else []
    for n in range(num_samples):
        values = np.zeros((BATCH, width, CHANNELS), "float32")
        values[:, :LENGTH] = np.where(np.arange(LENGTH)[:, None] < lengths[:, None, None], SERIES, 0.0)
        for step in range(STEPS):
            outputs = ops.convert_to_numpy(model([*sources, values]))[np.arange(BATCH), lengths + step - 1]
            hashed = uniforms(ops.convert_to_tensor(seeds[:, None]), scenarios(n)[:, None], columns + 1024 * step)
            random = ops.convert_to_numpy(hashed)
            place, scale = outputs[:, :CHANNELS], np.log1p(np.exp(outputs[:, CHANNELS:]))
            drawn = np.tanh(place) + 0.1 * scale * (random[:, :CHANNELS] - 0.5) + 0.01 * random[:, CHANNELS:]
            answer[:, n, step] = drawn
            values[np.arange(BATCH), lengths + step] = drawn
    return answer


def inputs_of(model):
    return SERIES if len(model.inputs) == 1 else [SOURCE, SERIES]


@pytest.mark.parametrize("name", MODELS)
def test_is_the_plain_loop(name, assert_close):
    model = MODELS[name]()
    rollout = kt.Rollout(model, sample, steps=STEPS, num_samples=2, seed=5)
    rows = np.arange(BATCH, dtype="int32")
    same = np.full(BATCH, 5, "int32")
    expected = by_hand(model, LENGTHS, 2, same, lambda n: 2 * rows + n)
    assert_close(rollout(inputs_of(model), lengths=LENGTHS), expected, 1e-4)


@pytest.mark.slow
def test_a_compiled_model_of_it_with_seeds_of_rows(tmp_path, assert_close):
    model = MODELS["encoder-decoder"]()
    inputs = [keras.Input((3, 11), name="source"), keras.Input((LENGTH, CHANNELS), name="series")]
    numbers = [keras.Input((), dtype="int32", name=name) for name in ("lengths", "seed")]
    rollout = kt.Rollout(model, sample, steps=STEPS, num_samples=2)
    scenarios = rollout(inputs, lengths=numbers[0], seed=numbers[1])
    assert scenarios.shape == (None, 2, STEPS, CHANNELS)
    compiled = keras.Model([*inputs, *numbers], scenarios)
    seeds = np.array([7, 7, 11], "int32")
    expected = by_hand(model, LENGTHS, 2, seeds, lambda n: np.full(BATCH, n, "int32"))
    given = [SOURCE, SERIES, LENGTHS, seeds]
    assert_close(compiled.predict(given, verbose=0), expected, 1e-4)
    one = compiled.predict([x[2:] for x in given], verbose=0)  # no row depends on its batch
    assert_close(one, expected[2:], 1e-4)
    compiled.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras").predict(given, verbose=0), expected, 1e-4)


def test_steps_that_are_patches(assert_close):
    """Four values a step, of one series; what comes out is patches again."""
    series = keras.Input((12,))
    patches = keras.Input((3, 4))
    x = kt.DecoderLayer(2, 16)(kt.PositionalEncoding()(keras.layers.Dense(8)(patches)))
    model = keras.Model(patches, keras.layers.Dense(4)(x))
    rollout = kt.Rollout(model, lambda outputs, uniform: outputs, steps=2)
    whole = keras.Model(series, ops.reshape(rollout(ops.reshape(series, (-1, 3, 4))), (-1, 8)))
    x = np.random.default_rng(1).normal(size=(2, 12)).astype("float32")
    first = ops.convert_to_numpy(model(x.reshape(2, 3, 4)))[:, -1]
    assert_close(whole(x)[:, :4], first, 1e-4)


def test_random_numbers_are_uniform_and_each_is_another():
    series = keras.Input((LENGTH, 1))
    model = keras.Model(series, keras.layers.Identity()(series))
    rollout = kt.Rollout(
        model, lambda _, uniform: uniform(1) + 2.0 * ops.floor(uniform(1) * 4.0), steps=6, num_samples=300
    )
    x = SERIES[:, :, :1]
    drawn = ops.convert_to_numpy(rollout(x)).ravel()
    fraction, whole = drawn % 2, drawn // 2
    assert 0 < fraction.min() and fraction.max() < 1 and len(np.unique(fraction)) > 0.99 * len(fraction)
    assert abs(fraction.mean() - 0.5) < 0.02 and abs(fraction.var() - 1 / 12) < 0.005
    assert set(whole) == {0, 1, 2, 3} and abs(np.corrcoef(fraction, whole)[0, 1]) < 0.05
    assert (ops.convert_to_numpy(rollout(x, seed=0)).ravel() == drawn).all()
    assert (ops.convert_to_numpy(rollout(x, seed=2**40)).ravel() != drawn).mean() > 0.99


@pytest.mark.parametrize(
    ("make", "message"),
    {
        "not causal": (
            lambda: kt.Rollout(made(kt.EncoderLayer(2, 8, name="enc")), sample, steps=2)(SERIES),
            "EncoderLayer 'enc' .*mixes time steps",
        ),
        "keeps no state": (
            lambda: kt.Rollout(made(keras.layers.Conv1D(4, 3, padding="causal", name="conv")), sample, steps=2)(SERIES),
            "Conv1D 'conv' .*mixes time steps",
        ),
        "length": (
            lambda: kt.Rollout(made(), sample, steps=2)(keras.Input((None, CHANNELS))),
            "'rollout.*' takes series of a known length",
        ),
        "longer": (lambda: twice(kt.Rollout(made(), sample, steps=2)), "was built for series of 7 steps, got 9"),
        "channels": (lambda: kt.Rollout(made(), sample, steps=2)(SERIES[..., :1]), "known length, .*, 2"),
        "sample": (
            lambda: kt.Rollout(made(), lambda outputs, _: outputs, steps=2)(SERIES),
            r"a sample of shape \(rows, 2\)",
        ),
        "inputs": (lambda: kt.Rollout(made(), sample, steps=2)([SERIES, SERIES]), "takes what its model takes"),
        "names": (
            lambda: kt.Rollout(made(), sample, steps=2)({"serie": SERIES}),
            r"takes what its model takes, \['series'\], got \['serie'\]",
        ),
        "one name too many": (
            lambda: kt.Rollout(made(), sample, steps=2)({"series": SERIES, "source": SOURCE}),
            r"\['series'\], got \['series', 'source'\]",
        ),
        "names, symbolic": (
            lambda: kt.Rollout(made(source=True), sample, steps=2)({"series": keras.Input((LENGTH, CHANNELS))}),
            r"\['source', 'series'\], got \['series'\]",
        ),
        "no function": (lambda: kt.Rollout(made(), "greedy", steps=2), "takes a function as sample, got 'greedy'"),
        "steps": (lambda: kt.Rollout(made(), sample, steps=0), "positive integer as steps"),
        "ids": (
            lambda: kt.Rollout(kt.models.language_model(29, num_layers=1, dim=8, num_heads=2), sample, steps=2),
            "kt.Generator",
        ),
        "values": (
            lambda: kt.Generator(made(), max_length=9, end_token=3),
            "kt.Rollout continues those",
        ),
    }.values(),
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def twice(rollout):
    rollout(SERIES)
    rollout(np.concatenate([SERIES, SERIES[:, :2]], axis=1))


@pytest.mark.slow
@pytest.mark.tensorflow
def test_exports_give_the_same(tmp_path, assert_close):
    model = MODELS["rotary, window"]()
    series = keras.Input((LENGTH, CHANNELS), name="series")
    seed = keras.Input((), dtype="int32", name="seed")
    scenarios = keras.Model([series, seed], kt.Rollout(model, sample, steps=STEPS, num_samples=2)(series, seed=seed))
    given = {"series": SERIES, "seed": np.array([1, 5, 7], "int32")}
    expected = scenarios.predict(list(given.values()), verbose=0)
    kt.export.saved_model(scenarios, tmp_path / "saved_model")
    kt.export.litert(scenarios, tmp_path / "model.tflite", batch_size=BATCH)
    for path in ("saved_model", "model.tflite"):
        (found,) = kt.export.load(tmp_path / path)(given).values()
        assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("wrong", [0, -1, LENGTH + 1])
def test_a_length_that_the_series_does_not_have_is_refused_or_gives_nan(wrong):
    series, number = keras.Input((LENGTH, 1)), keras.Input((), dtype="int32")
    values = np.ones((2, LENGTH, 1), "float32")
    lengths = np.array([wrong, LENGTH], "int32")
    rollout = kt.Rollout(keras.Model(series, keras.layers.Identity()(series)), lambda now, uniform: now, steps=3)
    with pytest.raises(ValueError, match=f"lengths from 1 to {LENGTH}, .* got lengths from"):
        rollout(values, lengths=lengths)
    with pytest.raises(ValueError, match="takes lengths as integers, got 2.5"):
        rollout(values, lengths=[2.5, 2])
    model = keras.Model([series, number], rollout(series, lengths=number))
    if keras.backend.backend() != "torch":  # runs eagerly: refused, too
        found = model.predict([values, lengths], verbose=0)
        assert np.isnan(found[0]).all() and (found[1] == 1).all()


def walk(steps=3):
    """A series that goes on by random steps."""
    series = keras.Input((LENGTH, CHANNELS))
    model = keras.Model(series, keras.layers.Identity()(series))
    return kt.Rollout(model, lambda now, uniform: now + uniform(CHANNELS), steps=steps)


@pytest.mark.parametrize("shape", [(1,), (BATCH + 2,), (BATCH, 1), (1, BATCH)], ids=str)
@pytest.mark.parametrize("name", ["lengths", "seed"])
def test_lengths_and_seeds_are_one_for_each_row(name, shape):
    rollout, message = walk(), rf"takes {name} of shape \(batch,\) = \(3,\).*, got {re.escape(str(shape))}"
    for value in (np.ones(shape, "int32"), np.ones(shape, "int32").tolist(), keras.KerasTensor(shape, "int32")):
        with pytest.raises(ValueError, match=message):
            if isinstance(value, keras.KerasTensor):
                rollout.compute_output_spec(keras.KerasTensor(SERIES.shape), **{name: value})
            else:
                rollout(SERIES, **{name: value})
    if len(shape) == 2:
        column = keras.Input(shape[1:], dtype="int32")
        with pytest.raises(ValueError, match=rf"takes {name} of shape \(batch,\) = \(None,\).*, got \(None, "):
            rollout(keras.Input(SERIES.shape[1:]), **{name: column})


def test_one_length_for_all_is_refused():
    with pytest.raises(ValueError, match=r"takes lengths of shape \(batch,\) = \(3,\), got \(\)"):
        walk()(SERIES, lengths=4)


@pytest.mark.parametrize("bad", [[0.2, 0.7, 1.0], np.array([0.2, 0.7, 1.0]), np.float32(0.5), np.array(0.5), 0.5])
def test_seeds_that_are_fractions_are_refused(bad):
    with pytest.raises(ValueError, match=r"seed.* integer.*, got 0\.[25]"):
        walk()(SERIES, seed=bad)


def test_seeds_of_any_type_are_the_same(assert_close):
    rollout = walk()
    expected = rollout(SERIES, seed=np.array([5, 7, 5], "int32"))
    for seed in ([5, 7, 5], np.array([5.0, 7.0, 5.0]), ops.convert_to_tensor([5, 7, 5])):
        assert_close(rollout(SERIES, seed=seed), expected, 0)
    for seed in (np.int64(7), np.float32(7), np.array(7), ops.convert_to_tensor(7)):
        assert_close(rollout(SERIES, seed=seed), rollout(SERIES, seed=7), 0)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has integers of 32 bits only, which are what it gets")
def test_seeds_of_rows_beyond_32_bits_are_refused():
    for seed in (np.array([1, 2, 2**40]), np.int64(2**40)):
        with pytest.raises(ValueError, match=f"seeds of 32 bits in an array, got seeds from .* to {2**40}"):
            walk()(SERIES, seed=seed)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="runs eagerly: refused")
def test_a_fraction_as_a_length_that_only_a_compiled_function_knows_gives_nan():
    series, number = keras.Input(SERIES.shape[1:]), keras.Input(())
    model = keras.Model([series, number], walk()(series, lengths=number))
    found = model.predict([SERIES, np.array([2.5, 2.0, 7.0], "float32")], verbose=0)
    assert np.isnan(found[0]).all() and np.isfinite(found[1:]).all()
