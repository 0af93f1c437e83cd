"""What may come in the next 96 hours: a hundred scenarios, each drawn hour by hour.

A causal decoder reads the hours of a series as a language model reads words, and says of the next hour how likely which
value is: a mixture of logistic distributions ("PixelCNN++", https://arxiv.org/abs/1701.05517). `kt.Rollout` draws from
that, hour by hour, with the key/value cache, so that a scenario hangs together as a text does: the bands around a
forecast are made of it, and so is whatever else one asks of the future, such as the highest load of the next four days.

The data are those of time_series.py, the history is a week. The scenarios are judged by their continuous ranked
probability score ("Strictly Proper Scoring Rules", https://doi.org/10.1198/016214506000001437), an absolute error that
counts the whole distribution, and by how often the truth lies within their bands. Beside them stands what learns
nothing: each of the last seven days, as a scenario. The test is every 96th window, so that no hour counts twice.

    python examples/scenarios.py --data data

A training that is killed goes on behind its last epoch. Normalization, the loop of 96 steps and the random numbers are
one model, which is exported as a SavedModel and for LiteRT; a seed goes in with the history.
"""

import time

import common
import keras
import numpy as np
import time_series
from keras import ops
from matplotlib.figure import Figure

import keras_transformer as kt

HISTORY, HORIZON, DAY = 168, 96, 24
DIM, HEADS, LAYERS, COMPONENTS, DROPOUT = 32, 4, 2, 4, 0.1
BATCH, EPOCHS, RATE, EVERY = 64, 8, 2e-3, 5  # every fifth window is trained on: those beside it are nearly the same
SCENARIOS, EXPORTED = 100, 10
BANDS = (0.5, 0.9)


def log_densities(values, outputs):
    """log p(x) of values (..., 1): x is of component k with probability w_k, and logistic around m_k with width s_k."""
    weights, places, log_widths = ops.split(outputs, 3, axis=-1)
    z = (values - places) * ops.exp(-log_widths)
    of_each = -z - 2.0 * ops.softplus(-z) - log_widths
    return ops.logsumexp(ops.log_softmax(weights) + of_each, axis=-1)


def surprise(truth, outputs):
    """The loss: -log p of each hour."""
    return -log_densities(truth, outputs)


@keras.saving.register_keras_serializable("scenarios")
def draw(outputs, uniform):
    """The next hour (R, 1): a component, and then a value of it by the inverse of its distribution function."""
    weights, places, log_widths = ops.split(outputs, 3, axis=-1)
    passed = ops.cast(ops.cumsum(ops.softmax(weights), axis=-1) < uniform(1), "int32")
    picked = ops.one_hot(ops.minimum(ops.sum(passed, axis=-1), COMPONENTS - 1), COMPONENTS)
    place, log_width = (ops.sum(picked * x, axis=-1, keepdims=True) for x in (places, log_widths))
    u = uniform(1)
    return place + ops.exp(log_width) * ops.log(u / (1.0 - u))


def build_decoder() -> keras.Model:
    """From the hours so far (B, T, 1) to what is said of the next of each (B, T, 3 K)."""
    values = keras.Input((None, 1), name="values")
    x = keras.layers.Dense(DIM)(values)
    for _ in range(LAYERS):
        x = kt.DecoderLayer(HEADS, 2 * DIM, dropout=DROPOUT, position=kt.RotaryPosition(), normalize_first=True)(x)
    return keras.Model(values, keras.layers.Dense(3 * COMPONENTS)(kt.LayerNormalization()(x)), name="decoder")


def build_scenarios(decoder: keras.Model, channels: int, count: int) -> keras.Model:
    """From histories (B, 168, C) and a seed for each to scenarios (B, N, 96, C)."""
    history = keras.Input((HISTORY, channels), name="history")
    seed = keras.Input((), dtype="int32", name="seed")
    norm = kt.ReversibleNormalization(affine=False)
    x = ops.reshape(ops.transpose(norm(history), (0, 2, 1)), (-1, HISTORY, 1))  # each channel is a row of its own
    seeds = ops.reshape(ops.expand_dims(seed * channels, 1) + ops.arange(channels, dtype="int32"), (-1,))
    x = kt.Rollout(decoder, draw, steps=HORIZON, num_samples=count)(x, seed=seeds)
    x = ops.transpose(ops.reshape(x, (-1, channels, count * HORIZON)), (0, 2, 1))
    x = ops.reshape(norm(x, reference=history, reverse=True), (-1, count, HORIZON, channels))
    return keras.Model([history, seed], keras.layers.Identity(name="scenarios")(x), name="scenarios")


def rows(history: np.ndarray, future: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is read (N C, 263, 1) and what is to be said of its last 96 hours (N C, 96, 1), each channel a row,
    normalized by the history."""
    history = history[:, -HISTORY:]
    mean, deviation = history.mean(axis=1, keepdims=True), np.sqrt(history.var(axis=1, keepdims=True) + 1e-5)
    x = (np.concatenate([history, future], axis=1) - mean) / deviation
    x = x.transpose(0, 2, 1).reshape(-1, HISTORY + HORIZON, 1).astype("float32")
    return x[:, :-1], x[:, HISTORY:]


def crps(scenarios: np.ndarray, truth: np.ndarray) -> float:
    """E|X - x| - E|X - X'| / 2 over scenarios (B, N, H, C), the mean over all values."""
    count = scenarios.shape[1]
    ordered = np.sort(scenarios.astype("float64"), axis=1)
    weights = (2.0 * np.arange(1, count + 1) - count - 1).reshape(1, -1, 1, 1)
    spread = (weights * ordered).sum(axis=1) / count**2  # half of the mean difference of two scenarios
    return float((np.abs(scenarios - truth[:, None]).mean(axis=1) - spread).mean())


def judge(scenarios: np.ndarray, truth: np.ndarray) -> dict:
    """CRPS, the share of values within each band, and the errors of the mean."""
    figures = {"crps": crps(scenarios, truth), **time_series.errors(scenarios.mean(axis=1), truth)}
    for band in BANDS:
        low, high = np.quantile(scenarios, [(1 - band) / 2, (1 + band) / 2], axis=1)
        figures[f"within_{band:.0%}"] = float(((low <= truth) & (truth <= high)).mean())
    return figures


def train(data: dict, seed: int, options) -> tuple[keras.Model, dict]:
    """A trained decoder and its figures on validation."""
    keras.utils.set_random_seed(seed)
    decoder = build_decoder()
    said = keras.layers.Cropping1D((HISTORY - 1, 0))(decoder.output)  # of the future alone: its history normalized it
    model = keras.Model(decoder.input, said)
    x, y = rows(*(part[:: 1 if options.quick else EVERY] for part in data["train"]))
    epochs = 1 if options.quick else EPOCHS
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(x) // BATCH))
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0), surprise, jit_compile=False)
    goes_on = keras.callbacks.BackupAndRestore(common.place(options, "exports", "scenarios", f"seed_{seed}"))
    begin = time.perf_counter()
    model.fit(x, y, BATCH, epochs, callbacks=[goes_on])
    minutes = (time.perf_counter() - begin) / 60
    found = model.evaluate(*rows(*(part[::HORIZON] for part in data["validation"])), verbose=0)
    return decoder, {"seed": seed, "minutes": minutes, "validation_surprise": found}


def export(decoder: keras.Model, history: np.ndarray, options) -> dict:
    """Write histories to scenarios, and let another process run it.

    It is compared here, not by `kt.export`, which asks for less rounding than 96 steps bring, each from the one before.

    Raises:
        SystemExit: If it gives other scenarios. (Some may part: within rounding of two components, either is drawn.)
    """
    figures, model = {}, build_scenarios(decoder, history.shape[-1], EXPORTED)
    given = {"history": history, "seed": np.arange(len(history), dtype="int32")}
    python = model.predict(list(given.values()), verbose=0)
    for name in ("saved_model", "litert.tflite"):
        path = common.place(options, "exports", "scenarios", name)
        if name == "saved_model":
            report = kt.export.saved_model(model, path, overwrite=True, verify=False)
        else:
            report = kt.export.litert(model, path, batch_size=len(history), overwrite=True, verify=False)
        found = common.run_elsewhere(path, given)["scenarios"]
        equal = float((np.abs(found - python) < 1e-2).all(axis=2).mean())
        if equal < 0.95:
            raise SystemExit(f"{name} gives other scenarios than Python: {equal:.1%} of them are equal.")
        figures[name.partition(".")[0]] = {"kilobytes": report.size / 1000, "equal": equal}
    return figures


def plot(names: list[str], history: np.ndarray, future: np.ndarray, scenarios: np.ndarray) -> Figure:
    """Of one window: the week before, what came, three scenarios and the bands."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes, ahead = figure.subplots(2, 2, sharex=True).ravel(), np.arange(HORIZON)
    for axis, channel in zip(axes, np.linspace(0, len(names) - 1, 4).astype(int), strict=True):
        axis.plot(np.arange(-HORIZON, 0), history[-HORIZON:, channel], color="0.6", lw=1)
        for band in reversed(BANDS):
            low, high = np.quantile(scenarios[..., channel], [(1 - band) / 2, (1 + band) / 2], axis=0)
            axis.fill_between(ahead, low, high, color="tab:orange", alpha=0.25, lw=0, label=f"{band:.0%} of scenarios")
        axis.plot(ahead, scenarios[:3, :, channel].T, color="tab:red", lw=0.7)
        axis.plot(ahead, future[:, channel], color="black", lw=1.4, label="truth")
        axis.set_title(names[channel], loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Read, train, draw scenarios of the test, judge, export."""
    options = common.parse(__doc__, data="ETTh1.csv", seeds=1)
    names, values = time_series.read(common.find(options.data, "ETTh1.csv", time_series.SOURCE))
    data = {part: time_series.windows(values, part) for part in time_series.PARTS}
    if options.quick:
        data = {part: (history[::480], future[::480]) for part, (history, future) in data.items()}
    history, future = (x[:: 1 if options.quick else HORIZON] for x in data["test"])
    history, count = history[:, -HISTORY:], EXPORTED if options.quick else SCENARIOS
    days = history.reshape(len(history), 7, DAY, -1)
    figures = {"scenarios": count, "windows": len(history), "runs": []}
    figures["last_days"] = judge(np.tile(days, (1, 1, HORIZON // DAY, 1)), future)
    for seed in options.seeds:
        decoder, run = train(data, seed, options)
        model, begin = build_scenarios(decoder, len(names), count), time.perf_counter()
        seeds = np.arange(len(history), dtype="int32")
        scenarios = model.predict([history, seeds], batch_size=4, verbose=1)
        run |= {**judge(scenarios, future), "minutes_of_scenarios": (time.perf_counter() - begin) / 60}
        figures["runs"].append(run)
        print(f"Seed {seed}: {run}\nThe last seven days as scenarios: {figures['last_days']}")
        if seed == options.seeds[0]:
            figures["exports"] = export(decoder, history[:2], options)
            middle = len(history) // 2
            picture = plot(names, history[middle], future[middle], scenarios[middle])
        common.write(options, "scenarios", figures, picture)


if __name__ == "__main__":
    main()
