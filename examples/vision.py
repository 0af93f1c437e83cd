"""A Vision Transformer reads handwritten digits: MNIST, and which parts of an image it looks at.

An image is cut into patches, each patch becomes a vector, and a learned vector before them collects what there is to
see ("An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929). Two small convolutions stand before them,
as "Early Convolutions Help Transformers See Better" (https://arxiv.org/abs/2106.14881) has it, and the patches overlap.
Of the 60,000 images for training 5,000 validate; the 10,000 of the test are looked at once, at the end.

    python examples/vision.py --data mnist

Without `--data` MNIST is downloaded. A training that is killed goes on with its last epoch. It leaves
examples/results/vision.json, docs/examples/vision.png and, in exports/, a SavedModel and two LiteRT files, of which the
int8 one runs in examples/browser/digit.html.
"""

import gzip
import time
from pathlib import Path

import common
import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import keras_transformer as kt

SOURCE = "https://storage.googleapis.com/cvdf-datasets/mnist/"
VALIDATION, BATCH, EPOCHS, RATE = 5_000, 128, 12, 2e-3
SIZE, SIDE, DIM, LAYERS, HEADS, INNER = 28, 4, 64, 4, 4, 128
PUBLISHED = {
    "LeNet-5, distorted images": {"test_error": 0.008, "source": "https://doi.org/10.1109/5.726791"},
    "LeNet-5": {"test_error": 0.0095, "source": "https://doi.org/10.1109/5.726791"},
}


def read(folder: Path | None, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28, 1), from 0 to 1, and their digits (N,); part is "train" or "t10k"."""
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        name = f"{part}-{kind}-ubyte"
        content = gzip.decompress(common.find(folder, name, f"{SOURCE}{name}.gz").read_bytes())
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4)  # the fourth byte is the rank
        arrays.append(np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape))
    images, digits = arrays
    return images[..., None].astype("float32") / 255, digits.astype("int32")


def augmented(images: np.ndarray, digits: np.ndarray, seed: int) -> tf.data.Dataset:
    """Batches in a new order each epoch; each image moved, turned and scaled a little, and no more than a little."""
    layers = [
        keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=seed),
        keras.layers.RandomRotation(0.04, fill_mode="constant", seed=seed + 1),  # in turns: 15 degrees
        keras.layers.RandomZoom(0.12, 0.12, fill_mode="constant", seed=seed + 2),
    ]

    def augment(x, y):
        for layer in layers:
            x = layer(x, training=True)
        return x, y

    data = tf.data.Dataset.from_tensor_slices((images, digits)).shuffle(len(images), seed=seed)
    return data.batch(BATCH, drop_remainder=True).map(augment).prefetch(2)


def build() -> keras.Model:
    """From pixels to ten logits: 4 x 4 patches that overlap, a vector before them, and what four layers make of it."""
    pixels = keras.Input((SIZE, SIZE, 1), name="pixels")
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(pixels)
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)  # 14 x 14
    x = kt.PatchEmbedding(DIM, 5, strides=3)(x)
    x = kt.LearnedPositionalEncoding(1 + SIDE**2)(kt.ClassToken()(x))
    for _ in range(LAYERS):
        x = kt.EncoderLayer(HEADS, INNER, norm_placement="before")(x)
    x = kt.LayerNormalization()(x[:, 0])
    return keras.Model(pixels, keras.layers.Dense(10, name="logits")(x), name="vision")


def train(data: dict, options, seed: int) -> tuple[keras.Model, dict]:
    """A model, and its figures."""
    keras.utils.set_random_seed(seed)
    model, epochs = build(), 1 if options.quick else EPOCHS
    steps = epochs * (len(data["train"][0]) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=RATE, warmup_steps=steps // 20)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    backup = keras.callbacks.BackupAndRestore(common.place(options, "exports", f"vision-{seed}"))
    begin = time.perf_counter()
    history = model.fit(
        augmented(*data["train"], seed), epochs=epochs, validation_data=data["validation"],
        validation_batch_size=500, callbacks=[backup], verbose=options.verbose,
    )  # fmt: skip
    return model, {
        "seed": seed,
        "minutes": (time.perf_counter() - begin) / 60,
        "validation_error": 1 - history.history["val_accuracy"][-1],
        "test_error": error(model.predict(data["test"][0], batch_size=500, verbose=0), data["test"][1]),
        "weights": model.count_params(),
    }


def error(logits: np.ndarray, digits: np.ndarray) -> float:
    """The share of rows whose largest logit is another digit's."""
    return float(np.mean(logits.argmax(-1) != digits))


def looked_at(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """How much the last layer's first vector attends to each patch (N, 4, 4), the mean of its heads."""
    *_, weights = kt.attention_weights(model, images).values()
    return weights[:, :, 0, 1:].mean(axis=1).reshape(-1, SIDE, SIDE)


def draw(model: keras.Model, images: np.ndarray, digits: np.ndarray) -> Figure:
    """The first image of each digit, and those that it reads wrongly, with what was looked at."""
    answers = model.predict(images, batch_size=500, verbose=0).argmax(-1)
    right = [np.flatnonzero((digits == digit) & (answers == digit))[:1] for digit in range(10)]
    chosen = np.concatenate([*right, np.flatnonzero(answers != digits)[:10]])
    figure = Figure(figsize=(10, 3), layout="constrained")
    grid = figure.subplots(2, 10, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i, weights in zip(grid, chosen, looked_at(model, images[chosen]), strict=False):
        axes.imshow(weights, cmap="Reds", vmin=0, alpha=0.7, interpolation="bilinear", extent=(2, 26, 26, 2))
        axes.imshow(np.zeros((28, 28)), cmap="gray", alpha=images[i, ..., 0])  # ink, above
        axes.set(xlim=(-0.5, 27.5), ylim=(27.5, -0.5))
        axes.set_title(str(answers[i]) if answers[i] == digits[i] else f"{answers[i]}, is {digits[i]}", fontsize=9)
    figure.suptitle("What the class token of the last layer attends to: test images, and ten that are read wrongly")
    return figure


def export(model: keras.Model, options, images: np.ndarray, digits: np.ndarray) -> dict:
    """A SavedModel and two LiteRT files, run in a process of their own on test images.

    Raises:
        SystemExit: If one in float32 gives something else than Python.
    """
    paths = {name: common.place(options, "exports", f"vision{name}") for name in ("", ".tflite", "-int8.tflite")}
    kt.export.saved_model(model, paths[""], overwrite=True)
    kt.export.litert(model, paths[".tflite"], overwrite=True)
    kt.export.litert(model, paths["-int8.tflite"], quantize="int8", overwrite=True)
    expected, figures = model.predict(images, batch_size=500, verbose=0), {}
    for name, path in paths.items():
        (logits,) = common.run_elsewhere(path, {"pixels": images}).values()
        difference = float(np.abs(logits - expected).max())
        if "int8" not in name and difference > 1e-3:
            raise SystemExit(f"{path} differs from Python by {difference}.")
        files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
        figures[path.name] = {
            "test_error": error(logits, digits),
            "largest_difference": difference,
            "mib": sum(x.stat().st_size for x in files) / 2**20,
        }
    return figures


def main() -> None:
    """Read, train, test, draw, export."""
    files = "train-images-idx3-ubyte, t10k-labels-idx1-ubyte, ..."
    options = common.parse(__doc__, data=files, seeds=1, add=lambda parser: parser.add_argument(
        "--verbose", type=int, default=1, help="of Keras' progress bar: 2 for a line an epoch"))  # fmt: skip
    images, digits = read(options.data, "train")
    order = np.random.default_rng(0).permutation(len(images))[: 1_000 if options.quick else None]
    count = len(order) // 5 if options.quick else VALIDATION
    data = {part: (images[i], digits[i]) for part, i in (("train", order[count:]), ("validation", order[:count]))}
    data["test"] = tuple(x[: 100 if options.quick else None] for x in read(options.data, "t10k"))
    runs = []
    for seed in options.seeds:
        model, figures = train(data, options, seed)
        runs.append(figures)
        figures = {
            "mean_test_error": float(np.mean([run["test_error"] for run in runs])),
            "runs": runs,
            "settings": {"epochs": EPOCHS, "batch": BATCH, "rate": RATE, "dim": DIM, "layers": LAYERS, "heads": HEADS},
            "examples": {part: len(x) for part, (x, _) in data.items()},
            "published": PUBLISHED,
        }
        print(
            f"Seed {seed}: error {runs[-1]['validation_error']:.2%} (validation), {runs[-1]['test_error']:.2%} (test)"
        )
        if seed == options.seeds[-1]:
            figures["exports"] = export(model, options, *data["test"])
        common.write(options, "vision", figures, draw(model, *data["test"]))


if __name__ == "__main__":
    main()
