"""The next 96 hours of seven series, from the last 336: patches of a series are its tokens.

Each channel goes by itself through one and the same encoder, in patches of a day ("A Time Series is Worth 64 Words",
https://arxiv.org/abs/2211.14730), after its mean and its deviation over the 336 hours were taken away; they are put
back at the end ("Reversible Instance Normalization", https://openreview.net/forum?id=cGDAkQo1C0p).

ETTh1 is load and oil temperature of a transformer, the electrical kind, each hour of two years ("Informer",
https://arxiv.org/abs/2012.07436): 12 months to train, 4 to validate, 4 to test, all in units of the deviation in the
first 12. The test is all 2,785 windows. Beside the model stand two forecasts that learn nothing: the last value goes
on, and the last day comes again.

    python examples/time_series.py --data data

Settings were chosen on validation; the test is looked at once, with those below. A training that is killed
goes on behind its last epoch. The model of the first seed is exported as a SavedModel and for LiteRT.
"""

import csv
import gzip
import time
from pathlib import Path

import common
import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure

import keras_transformer as kt

SOURCE = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv"
HISTORY, HORIZON, DAY = 336, 96, 24
MONTH = 30 * DAY
PARTS = {"train": (0, 12 * MONTH), "validation": (12 * MONTH, 16 * MONTH), "test": (16 * MONTH, 20 * MONTH)}
PUBLISHED = {
    "PatchTST/42": {"inputs": 336, "mse": 0.375, "mae": 0.399, "source": "https://arxiv.org/abs/2211.14730"},
    "DLinear": {"inputs": 336, "mse": 0.375, "mae": 0.399, "source": "https://arxiv.org/abs/2205.13504"},
    "iTransformer": {"inputs": 96, "mse": 0.386, "mae": 0.405, "source": "https://arxiv.org/abs/2310.06625"},
}
SETTINGS = {
    "model": {"dim": 64, "num_heads": 4, "intermediate_dim": 128, "num_layers": 2, "dropout": 0.3},
    "loss": "mse",
    "batch_size": 32,
    "epochs": 10,
    "learning_rate": 1e-3,
    "average": 0.99,
}


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """The names of the channels and their values (hours, channels), standardized by those of the part for training."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        (_, *names), *rows = csv.reader(file)
    values = np.array([row[1:] for row in rows], "float64")
    first = values[slice(*PARTS["train"])]
    return names, ((values - first.mean(axis=0)) / first.std(axis=0)).astype("float32")


def windows(values: np.ndarray, part: str) -> tuple[np.ndarray, np.ndarray]:
    """All histories (N, 336, C) of a part and what followed (N, 96, C), which lies in the part, while a history may
    begin before it."""
    start, end = PARTS[part]
    hours = values[max(0, start - HISTORY) : end]
    both = np.lib.stride_tricks.sliding_window_view(hours, HISTORY + HORIZON, axis=0).swapaxes(1, 2)
    return both[:, :HISTORY], both[:, HISTORY:]


def errors(forecast: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The mean squared and the mean absolute error, of all windows, hours and channels alike."""
    difference = np.asarray(forecast, "float64") - truth
    return {"mse": float(np.square(difference).mean()), "mae": float(np.abs(difference).mean())}


def build(channels: int, dim, num_heads, intermediate_dim, num_layers, dropout) -> keras.Model:
    """From (B, 336, C) to (B, 96, C)."""
    history = keras.Input((HISTORY, channels), name="history")
    norm = kt.ReversibleNormalization(affine=False)
    x = ops.transpose(norm(history), (0, 2, 1))
    x = ops.reshape(x, (-1, HISTORY, 1))  # each channel is a row of its own
    x = kt.PatchEmbedding(dim, DAY)(x)
    x = keras.layers.Dropout(dropout)(kt.LearnedPositionalEncoding(HISTORY // DAY)(x))
    for _ in range(num_layers):
        x = kt.EncoderLayer(num_heads, intermediate_dim, activation="gelu", dropout=dropout)(x)
    x = keras.layers.Dense(HORIZON, name="head")(keras.layers.Flatten()(x))
    x = ops.transpose(ops.reshape(x, (-1, channels, HORIZON)), (0, 2, 1))
    forecast = norm(x, reference=history, reverse=True)
    return keras.Model(history, keras.layers.Identity(name="forecast")(forecast), name="time_series")


def train(data: dict, seed: int, options) -> tuple[keras.Model, dict]:
    """A trained model and its figures on validation. The weights are the moving average over the last steps."""
    settings = {**SETTINGS, "epochs": 1} if options.quick else SETTINGS
    history, future = data["train"]
    keras.utils.set_random_seed(seed)
    model = build(history.shape[-1], **settings["model"])
    steps = settings["epochs"] * -(-len(history) // settings["batch_size"])
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(settings["learning_rate"], steps),
        use_ema=True,
        ema_momentum=settings["average"],
    )
    model.compile(optimizer, settings["loss"], metrics=["mse", "mae"], jit_compile=False)
    goes_on = keras.callbacks.BackupAndRestore(common.place(options, "exports", "time_series", f"seed_{seed}"))
    begin = time.perf_counter()
    model.fit(history, future, settings["batch_size"], settings["epochs"], callbacks=[goes_on])
    minutes = (time.perf_counter() - begin) / 60
    history, future = data["validation"]
    found = errors(model.predict(history, batch_size=256, verbose=0), future)
    return model, {"seed": seed, "minutes": minutes, **{f"validation_{name}": x for name, x in found.items()}}


def export(model: keras.Model, history: np.ndarray, future: np.ndarray, options) -> dict:
    """Write the model for TensorFlow Serving and LiteRT, float32 and int8, and let another process run them.

    Raises:
        SystemExit: If a float32 file gives something else than Python.
    """
    figures = {}
    python = model.predict(history, batch_size=256, verbose=0)
    for name, quantize in (("saved_model", None), ("litert", None), ("litert_int8", "int8")):
        path = common.place(options, "exports", "time_series", name + ("" if name == "saved_model" else ".tflite"))
        if name == "saved_model":
            report = kt.export.saved_model(model, path, overwrite=True)
        else:
            report = kt.export.litert(model, path, batch_size=len(history), quantize=quantize, overwrite=True)
        found = common.run_elsewhere(path, {"history": history})["forecast"]
        distance = float(np.abs(found - python).max())
        if quantize is None and distance > 1e-3:
            raise SystemExit(f"{path.name} gives something else than Python, by up to {distance}.")
        figures[name] = {"kilobytes": report.size / 1000, "largest_difference": distance, **errors(found, future)}
    figures["python"] = errors(python, future)
    return figures


def draw(names: list[str], history: np.ndarray, future: np.ndarray, forecast: np.ndarray) -> Figure:
    """Three windows of three channels: what was, what came, what was forecast."""
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    channels = [names.index(name) for name in ("HUFL", "LULL", "OT") if name in names]
    picked = np.linspace(0, len(history) - 1, 5).astype(int)[1:-1]
    axes = figure.subplots(len(channels), len(picked), sharex=True, squeeze=False)
    ahead = np.arange(HORIZON)
    for row, channel in zip(axes, channels, strict=True):
        for axis, window in zip(row, picked, strict=True):
            axis.set_title(names[channel], loc="left", fontsize=9)
            axis.plot(np.arange(-HORIZON, 0), history[window, -HORIZON:, channel], color="0.6", lw=1)
            axis.plot(ahead, future[window, :, channel], color="black", lw=1, label="truth")
            axis.plot(ahead, forecast[window, :, channel], color="tab:orange", lw=1.6, label="forecast")
            axis.axvline(0, color="0.8", lw=0.8, zorder=0)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Read, train a model for each seed, test, draw, export."""
    options = common.parse(__doc__, data="ETTh1.csv")
    names, values = read(common.find(options.data, "ETTh1.csv", SOURCE))
    data = {part: windows(values, part) for part in PARTS}
    if options.quick:
        data = {part: (history[::400], future[::400]) for part, (history, future) in data.items()}
    history, future = data["test"]
    figures = {
        "settings": SETTINGS,
        "windows": {part: len(history) for part, (history, _) in data.items()},
        "published": PUBLISHED,
        "last_value": errors(np.repeat(history[:, -1:], HORIZON, axis=1), future),
        "last_day": errors(np.tile(history[:, -DAY:], (1, HORIZON // DAY, 1)), future),
        "runs": [],
    }
    print(f"The last value goes on: {figures['last_value']}\nThe last day comes again: {figures['last_day']}")
    for seed in options.seeds:
        model, run = train(data, seed, options)
        forecast = model.predict(history, batch_size=256, verbose=0)
        run.update({f"test_{name}": x for name, x in errors(forecast, future).items()})
        print(f"Seed {seed}: {run}")
        figures["weights"] = model.count_params()
        figures["runs"].append(run)
        for name in ("validation_mse", "validation_mae", "test_mse", "test_mae", "minutes"):
            figures[f"mean_{name}"] = float(np.mean([x[name] for x in figures["runs"]]))
        if seed == options.seeds[0]:
            plot = draw(names, history, future, forecast)
            picked = slice(None, None, -(-len(history) // 32))
            figures["exports"] = export(model, history[picked], future[picked], options)
        common.write(options, "time_series", figures, plot)


if __name__ == "__main__":
    main()
