"""A Transformer hears spoken digits: a waveform goes in, its log-mel spectrogram is made in the model.

The Free Spoken Digit Dataset has 3,000 recordings of six speakers at 8 kHz. In front of the encoder convolutions make
four frames one step, as in most speech Transformers ("fairseq S2T", https://arxiv.org/abs/2010.05171); recordings of
several lengths are padded with zeros, and what is padding is known from the samples on up to the pooling. Each
recording is heard a little faster or slower, later, louder, in noise, and without some bands and frames (as in
"SpecAugment", https://arxiv.org/abs/1904.08779). The recordings 0 to 4 of each speaker and digit test (the official
split), 5 to 9 validate, the others train.

    python examples/speech.py --data fsdd

Without `--data` the recordings are downloaded. A training that is killed goes on with its last epoch. It leaves
examples/results/speech.json, docs/examples/speech.png and a SavedModel that takes waveforms in exports/.
"""

import io
import re
import tarfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import common
import keras
import numpy as np
from matplotlib.figure import Figure

import keras_transformer as kt

SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.10.tar.gz"
RATE_HZ, MELS, FRAME, STRIDE = 8_000, 40, 200, 80  # frames of 25 ms, every 10 ms
DIM, LAYERS, HEADS, INNER, DROPOUT = 96, 4, 4, 192, 0.1
BATCH, EPOCHS, RATE = 32, 60, 1e-3
LONGEST = 80_000  # samples that the export takes


def read(folder: Path | None) -> dict[str, list[tuple[np.ndarray, int]]]:
    """Of each part, sounds from -1 to 1 and their digits. Files are called {digit}_{speaker}_{index}.wav."""
    data = {"train": [], "validation": [], "test": []}
    with tarfile.open(common.find(folder, "recordings.tar.gz", SOURCE)) as archive:
        found = {Path(member.name).name: member for member in archive if member.name.endswith(".wav")}
        for name, member in sorted(found.items()):
            digit, index = map(int, re.fullmatch(r"(\d)_\w+_(\d+)\.wav", name).groups())
            part = "test" if index < 5 else "validation" if index < 10 else "train"
            data[part].append((read_wave(archive.extractfile(member).read()), digit))
    return data


def read_wave(content: bytes) -> np.ndarray:
    """The samples of a file of 16 bits, 8 kHz and one channel."""
    with wave.open(io.BytesIO(content)) as file:
        kind = file.getnchannels(), file.getsampwidth(), file.getframerate()
        if kind != (1, 2, RATE_HZ):
            raise ValueError(f"A recording is mono, of 2 bytes a sample and {RATE_HZ} Hz; got {kind}.")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype("float32") / 32768


def pad(sounds: list[np.ndarray]) -> np.ndarray:
    """One array, zeros behind each sound."""
    longest = max(map(len, sounds))
    return np.stack([np.pad(sound, (0, longest - len(sound))) for sound in sounds])


def augmented(sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The sound at another speed, later, at another loudness, in noise."""
    speed = random.uniform(0.85, 1.18)
    sound = np.interp(np.arange(0, len(sound) - 1, speed), np.arange(len(sound)), sound)
    sound = np.pad(sound, random.integers(0, 1_200, 2))
    sound *= 10 ** random.uniform(-0.5, 0.5)  # 10 decibels down or up
    noise = np.abs(sound).max() * 10 ** random.uniform(-4, -1.2)
    return (sound + noise * random.normal(size=len(sound))).astype("float32")


def batches(data: list, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end, of augmented sounds and their digits, all recordings in a new order each time."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(data))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = [data[i] for i in order[start : start + BATCH]]
            yield pad([augmented(sound, random) for sound, _ in chosen]), np.array([digit for _, digit in chosen])


def encode(sound: keras.KerasTensor, strides: tuple[int, ...]) -> keras.KerasTensor:
    """From samples (B, T) to what the encoder has heard, (B, T / 80 / strides, D), with its padding mask."""
    x = kt.LogMelSpectrogram(
        MELS, None, sampling_rate=RATE_HZ, frame_length=FRAME, stride=STRIDE, mask_zero=True, name="spectrogram"
    )(sound)
    x = keras.layers.SpatialDropout1D(0.1)(x)  # whole bands
    x = keras.layers.Dropout(0.1, noise_shape=(None, None, 1))(x)  # whole frames
    x = kt.ConvolutionalSubsampling(DIM, strides, activation="gelu")(x)
    x = keras.layers.Dropout(DROPOUT)(kt.PositionalEncoding()(x))
    for _ in range(LAYERS):
        x = kt.EncoderLayer(HEADS, INNER, activation="gelu", norm_placement="before", dropout=DROPOUT)(x)
    return kt.LayerNormalization()(x)


def build() -> keras.Model:
    """From samples to ten logits."""
    sound = keras.Input((None,), name="sound")
    x = kt.MaskedPooling("mean")(encode(sound, (2, 2)))
    return keras.Model(sound, keras.layers.Dense(10, name="logits")(keras.layers.Dropout(0.2)(x)), name="speech")


def compiled(model: keras.Model, loss, steps: int, metrics=()) -> keras.Model:
    """With AdamW, whose rate rises over the first tenth of the steps and then falls to 0."""
    warmup = steps // 10
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=RATE, warmup_steps=warmup)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05, global_clipnorm=1.0)
    model.compile(optimizer, loss, metrics=list(metrics), jit_compile=False)
    return model


def accuracy(logits: np.ndarray, digits: np.ndarray) -> float:
    """The share of rows whose largest logit is the digit's."""
    return float(np.mean(logits.argmax(-1) == digits))


def train(data: dict, options, seed: int) -> tuple[keras.Model, dict]:
    """A model, and its figures."""
    keras.utils.set_random_seed(seed)
    epochs, steps = (1, 2) if options.quick else (EPOCHS, len(data["train"]) // BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(build(), loss, epochs * steps, ["accuracy"])
    backup = keras.callbacks.BackupAndRestore(common.place(options, "exports", f"speech-{seed}"))
    arrays = {part: (pad(sounds), np.array(digits)) for part, (sounds, digits) in columns(data).items()}
    begin = time.perf_counter()
    history = model.fit(
        batches(data["train"], seed), steps_per_epoch=steps, epochs=epochs, validation_data=arrays["validation"],
        validation_batch_size=50, callbacks=[backup], verbose=options.verbose,
    )  # fmt: skip
    x, digits = arrays["test"]
    return model, {
        "seed": seed,
        "minutes": (time.perf_counter() - begin) / 60,
        "validation_accuracy": history.history["val_accuracy"][-1],
        "test_accuracy": accuracy(model.predict(x, batch_size=50, verbose=0), digits),
        "weights": model.count_params(),
    }


def columns(data: dict) -> dict[str, tuple[list, list]]:
    """Of each part that is not for training, sounds and digits."""
    return {part: tuple(map(list, zip(*data[part], strict=True))) for part in ("validation", "test")}


def draw(model: keras.Model, data: list) -> Figure:
    """Spectrograms of ten test recordings, and how much each step is attended to in the last layer."""
    spectrogram = model.get_layer("spectrogram")
    chosen = [next(sound for sound, digit in data if digit == wanted) for wanted in range(10)]
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    for digit, (axes, sound) in enumerate(zip(figure.subplots(2, 5).ravel(), chosen, strict=True)):
        frames = np.asarray(spectrogram(sound[None]))[0]
        *_, weights = kt.attention_weights(model, sound[None]).values()
        seen = weights[0].mean(axis=(0, 1))  # over heads and queries
        answer = model.predict(sound[None], verbose=0).argmax()
        axes.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
        axes.plot(4 * np.arange(len(seen)), MELS * 0.9 * seen / seen.max(), color="cyan", linewidth=2)
        axes.set(title=f"{digit}, heard as {answer}", yticks=[], xlabel="10 ms" if digit > 4 else "")
    figure.suptitle("Log-mel spectrograms of test recordings; the line: how much the last layer attends to a step")
    return figure


def main() -> None:
    """Read, train, test, draw, export."""
    options = common.parse(__doc__, data="recordings.tar.gz", seeds=1, add=lambda parser: parser.add_argument(
        "--verbose", type=int, default=1, help="of Keras' progress bar: 2 for a line an epoch"))  # fmt: skip
    data, runs = read(options.data), []
    data = {part: x[:: max(1, len(x) // 60) if options.quick else 1] for part, x in data.items()}
    for seed in options.seeds:
        model, figures = train(data, options, seed)
        runs.append(figures)
        print(f"Seed {seed}: {figures['validation_accuracy']:.2%} (validation), {figures['test_accuracy']:.2%} (test)")
    export = common.place(options, "exports", "speech")
    kt.export.saved_model(model, export, max_source_length=LONGEST, overwrite=True)
    x = pad([sound for sound, _ in data["test"]])
    (logits,) = common.run_elsewhere(export, {"sound": x}).values()
    difference = float(np.abs(logits - model.predict(x, batch_size=50, verbose=0)).max())
    if difference > 1e-3:
        raise SystemExit(f"{export} differs from Python by {difference}.")
    figures = {
        "mean_test_accuracy": float(np.mean([run["test_accuracy"] for run in runs])),
        "runs": runs,
        "settings": {"epochs": EPOCHS, "batch": BATCH, "rate": RATE, "dim": DIM, "layers": LAYERS, "heads": HEADS},
        "examples": {part: len(x) for part, x in data.items()},
        "export": {"largest_difference": difference},
    }
    common.write(options, "speech", figures, draw(model, data["test"]))


if __name__ == "__main__":
    main()
