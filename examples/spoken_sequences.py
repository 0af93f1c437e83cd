"""A Transformer writes down the digits that it hears, one after the other: an encoder-decoder from a waveform to text.

One to five recordings of the Free Spoken Digit Dataset, of any of its speakers, are put together with gaps, anew for
each batch. The encoder is that of examples/speech.py, with one convolution more; a decoder attends to what it has heard
and writes digit by digit until it ends, as in "Listen, Attend and Spell" (https://arxiv.org/abs/1508.01211) and Whisper
(https://arxiv.org/abs/2212.04356). Sequences of three for validation and for the test are made of the recordings that
validate and test in examples/speech.py, and of no others; sequences of the test are written at the end.

    python examples/spoken_sequences.py --data fsdd

Without `--data` the recordings are downloaded. A training that is killed goes on with its last epoch. It leaves
examples/results/spoken_sequences.json, docs/examples/spoken_sequences.png and, in exports/, a SavedModel that takes
waveforms and gives digits.
"""

import time
from collections.abc import Iterator

import common
import keras
import numpy as np
import speech
from matplotlib.figure import Figure

import keras_transformer as kt

START, END, FIRST, MOST = 1, 2, 3, 5  # ids; the id of digit 0; digits in a sequence
STRIDES, DECODERS = (2, 2, 2), 2
BATCH, STEPS, EPOCHS = 32, 100, 100
SEQUENCES, GAP = 300, 2_400  # of each length in the test; samples between two digits, at most


def joined(sounds: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Sounds one after the other, silence of up to 0.3 seconds between them."""
    parts = [sounds[0]]
    for sound in sounds[1:]:
        parts += [np.zeros(random.integers(0, GAP), "float32"), sound]
    return np.concatenate(parts)


def rows_of(digits: np.ndarray) -> np.ndarray:
    """Ids (B, N + 2): start, digits, end."""
    return np.pad(digits + FIRST, ((0, 0), (1, 1)), constant_values=((0, 0), (START, END)))


def batches(data: list, seed: int) -> Iterator:
    """Batches without end, each of sequences of one number of digits: (sounds, target ids), next ids. Each number comes
    once in five batches: Keras has to see two lengths in the first two."""
    random = np.random.default_rng(seed)
    while True:
        for count in random.permutation(MOST) + 1:
            chosen = random.integers(0, len(data), (BATCH, count))
            sounds = [joined([speech.augmented(data[i][0], random) for i in row], random) for row in chosen]
            rows = rows_of(np.array([[data[i][1] for i in row] for row in chosen]))
            yield (speech.pad(sounds), rows[:, :-1]), rows[:, 1:]


def sequences(data: list, length: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sounds (count, samples) and digits (count, length), as they are, of recordings drawn by the seed."""
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(data), (count, length))
    sounds = [joined([data[i][0] for i in row], random) for row in chosen]
    return speech.pad(sounds), np.array([[data[i][1] for i in row] for row in chosen])


def build() -> keras.Model:
    """From samples, and the digits so far, to the logits of the next."""
    sound = keras.Input((None,), name="sound")
    target = keras.Input((None,), dtype="int32", name="target")
    memory = speech.encode(sound, STRIDES)
    embedding = kt.TokenEmbedding(FIRST + 10, speech.DIM, scale=True)
    y = keras.layers.Dropout(speech.DROPOUT)(kt.PositionalEncoding()(embedding(target)))
    for _ in range(DECODERS):
        y = kt.DecoderLayer(
            speech.HEADS, speech.INNER, activation="gelu", norm_placement="before", dropout=speech.DROPOUT
        )(y, memory)
    return keras.Model([sound, target], embedding(kt.LayerNormalization()(y), reverse=True), name="spoken_sequences")


def written(result: dict) -> list[list[int]]:
    """The digits of each row, without start and end."""
    tokens, lengths = np.asarray(result["tokens"])[:, 0], np.asarray(result["lengths"])[:, 0]
    rows = (row[1:length].tolist() for row, length in zip(tokens, lengths, strict=True))
    return [[token - FIRST for token in row if token >= FIRST] for row in rows]


def exact(found: list[list[int]], digits: np.ndarray) -> float:
    """The share of sequences that are written as they were spoken, digit for digit."""
    return float(np.mean([row == expected.tolist() for row, expected in zip(found, digits, strict=True)]))


def generate(generator: kt.Generator, sounds: np.ndarray) -> list[list[int]]:
    """The digits of each row, 50 rows at a time."""
    parts = [written(generator(sounds[start : start + 50])) for start in range(0, len(sounds), 50)]
    return [row for part in parts for row in part]


def train(data: dict, options, seed: int) -> tuple[kt.Generator, dict]:
    """A generator, and its figures."""
    keras.utils.set_random_seed(seed)
    epochs, steps, count = (1, 2, 5) if options.quick else (EPOCHS, STEPS, SEQUENCES)
    loss = kt.training.SequenceCrossentropy(label_smoothing=0.1)
    model = speech.compiled(build(), loss, epochs * steps, [kt.training.TokenAccuracy()])
    sounds, digits = sequences(data["validation"], 3, count, seed=0)
    rows = rows_of(digits)
    backup = keras.callbacks.BackupAndRestore(common.place(options, "exports", f"spoken_sequences-{seed}"))
    begin = time.perf_counter()
    model.fit(
        batches(data["train"], seed), steps_per_epoch=steps, epochs=epochs, callbacks=[backup],
        validation_data=([sounds, rows[:, :-1]], rows[:, 1:]), validation_batch_size=50, verbose=options.verbose,
    )  # fmt: skip
    minutes = (time.perf_counter() - begin) / 60
    generator = kt.Generator(model, start_token=START, end_token=END, max_length=2 * MOST)
    lengths = (3,) if options.quick else range(1, MOST + 3)  # also longer ones than in training
    test = {length: sequences(data["test"], length, count, seed=length) for length in lengths}
    return generator, {
        "seed": seed,
        "minutes": minutes,
        "validation_exact": exact(generate(generator, sounds), digits),
        "test_exact": {str(length): exact(generate(generator, x), digits) for length, (x, digits) in test.items()},
        "weights": model.count_params(),
    }


def draw(generator: kt.Generator, sounds: np.ndarray) -> Figure:
    """Spectrograms of two sequences, and what the last decoder layer attends to while it writes each digit."""
    spectrogram = generator.model.get_layer("spectrogram")
    figure = Figure(figsize=(8.5, 3.9), layout="constrained")
    grid = figure.subplots(2, len(sounds), squeeze=False, height_ratios=(2, 1), sharex="col")
    for (above, below), sound in zip(grid.T, sounds, strict=True):
        sound = np.trim_zeros(sound, "b")[None]
        digits = written(generator(sound))[0]
        given = rows_of(np.array([digits]))[:, :-1]
        maps = kt.attention_weights(generator.model, [sound, given])
        *_, cross = (weights[0].mean(axis=0) for path, weights in maps.items() if path.endswith("cross_attention"))
        frames = np.asarray(spectrogram(sound))[0]
        above.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
        above.set(title=f"written: {' '.join(map(str, digits))}", yticks=[], ylabel="mel bands")
        end = cross.shape[1] * np.prod(STRIDES)
        below.imshow(
            cross,
            aspect="auto",
            cmap="viridis",
            interpolation="nearest",
            extent=(-0.5, end - 0.5, len(cross) - 0.5, -0.5),
        )
        below.set(yticks=range(len(cross)), yticklabels=[*digits, "end"], xlabel="10 ms", ylabel="written")
    figure.suptitle("What the last decoder layer attends to while it writes a digit (mean of its heads)")
    return figure


def main() -> None:
    """Read, train, test, draw, export."""
    options = common.parse(__doc__, data="recordings.tar.gz", seeds=1, add=lambda parser: parser.add_argument(
        "--verbose", type=int, default=1, help="of Keras' progress bar: 2 for a line an epoch"))  # fmt: skip
    data, runs = speech.read(options.data), []
    data = {part: x[:: max(1, len(x) // 60) if options.quick else 1] for part, x in data.items()}
    for seed in options.seeds:
        generator, figures = train(data, options, seed)
        runs.append(figures)
        print(f"Seed {seed}: {figures['validation_exact']:.2%} (validation), test, by length: {figures['test_exact']}")
    sounds, _ = sequences(data["test"], 3, 5 if options.quick else 50, seed=3)
    export = common.place(options, "exports", "spoken_sequences")
    kt.export.saved_model(generator, export, max_source_length=speech.LONGEST, overwrite=True)
    agreed = written(common.run_elsewhere(export, {"sound": sounds})) == generate(generator, sounds)
    if not agreed:
        raise SystemExit(f"{export} writes something else than Python.")
    figures = {
        "mean_test_exact": float(np.mean([run["test_exact"]["3"] for run in runs])),
        "runs": runs,
        "settings": {"epochs": EPOCHS, "steps": STEPS, "batch": BATCH, "rate": speech.RATE, "decoders": DECODERS},
        "sequences": SEQUENCES,
    }
    examples = [sequences(data["test"], length, 1, seed=length)[0][0] for length in (3, 5)]
    common.write(options, "spoken_sequences", figures, draw(generator, examples))


if __name__ == "__main__":
    main()
