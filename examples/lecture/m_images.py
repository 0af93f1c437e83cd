"""Claim: a convolution sees what its fixed filter covers; attention relates all parts of an image at once.

    convolution  y[p] = sum over the offsets d of a 3 x 3 filter of W_d x[p + d], so L layers reach L cells
    attention    y[p] = sum over all cells q of a[p, q] V x[q], so one layer reaches all
    (patches of an image as tokens: "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929)

An image has 5 x 5 cells with a symbol in each, in noise. Each cell has to name its own symbol and those 1 to 4 cells to
its right: the same everywhere, as filters like it. Stacks of convolutions and one `EncoderLayer` get the same patches,
the same kind of positions and the same training. First, how much of the image an output depends on at all: the cells by
which the gradient of the corner's output is not zero. Then the accuracy on fresh images, by distance.

    python examples/lecture/m_images.py
"""

import keras
import numpy as np
import page
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import keras_transformer as kt

GRID, CELL, SYMBOLS, NOISE = 5, 8, 10, 0.5
DIM, HEADS, BATCH, STEPS, TESTS = 128, 8, 32, 500, 512
CELLS, SIDE = GRID**2, GRID * CELL
CONVOLUTIONS = (1, 2, 4)  # layers
ATTENTION = "attention, 1 layer"
SHAPES = np.random.default_rng(page.SEED).integers(2, size=(SYMBOLS, CELL, CELL))


def to_the_right(cells: np.ndarray) -> np.ndarray:
    """Of rows of cells (B, 5, 5), what stands 0 to 4 cells to the right of each (B, 25, 5); 0 beyond the edge."""
    padded = np.pad(cells, ((0, 0), (0, 0), (0, GRID - 1)))
    return np.lib.stride_tricks.sliding_window_view(padded, GRID, axis=2).reshape(-1, CELLS, GRID)


INSIDE = to_the_right(np.ones((1, GRID, GRID)))[0]  # what is beyond the edge does not count


def sample(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, 40, 40, 1), and for each cell the symbols 0 to 4 cells to its right, (B, 25, 5)."""
    random = np.random.default_rng(seed)
    symbols = random.integers(SYMBOLS, size=(rows, GRID, GRID))
    images = SHAPES[symbols].transpose(0, 1, 3, 2, 4).reshape(rows, SIDE, SIDE, 1)
    return images + random.normal(0, NOISE, images.shape), to_the_right(symbols)


def build_model(convolutions: int) -> keras.Model:
    """Logits (B, 25, 5, 10), from patches that so many convolutions mix, or, if none does, attention."""
    image = keras.Input((SIDE, SIDE, 1))
    x = keras.layers.Conv2D(DIM, CELL, strides=CELL, activation="relu")(image)  # each cell by itself
    x = kt.PositionalEncoding()(keras.layers.Reshape((CELLS, DIM))(x))
    if not convolutions:
        x = kt.EncoderLayer(HEADS, 2 * DIM, normalize_first=True)(x)
    for _ in range(convolutions):
        y = keras.layers.Reshape((GRID, GRID, DIM))(keras.layers.LayerNormalization()(x))
        y = keras.layers.Conv2D(DIM, 3, padding="same", activation="relu")(y)
        x = x + keras.layers.Reshape((CELLS, DIM))(y)
    logits = keras.layers.Dense(GRID * SYMBOLS)(keras.layers.LayerNormalization()(x))
    return keras.Model(image, keras.layers.Reshape((CELLS, GRID, SYMBOLS))(logits))


def cells_seen(model: keras.Model) -> int:
    """The number of cells on which the output of the first one, in the corner, depends."""
    import tensorflow as tf

    image = tf.constant(sample(1, seed=1)[0], "float32")
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = tf.reduce_sum(model(image)[:, 0] ** 2)
    gradient = tape.gradient(output, image).numpy().reshape(GRID, CELL, GRID, CELL)
    return int(abs(gradient).max(axis=(1, 3)).astype(bool).sum())


def train(model: keras.Model) -> keras.Model:
    """The model, trained on the same images as the others."""
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, STEPS), clipnorm=1.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for part in range(STEPS // 50):
        images, symbols = sample(50 * BATCH, seed=1000 + part)
        counts = np.broadcast_to(INSIDE, symbols.shape)
        model.fit(images, symbols, sample_weight=counts, batch_size=BATCH, shuffle=False, verbose=0)
    return model


def accuracy_by_distance(model: keras.Model) -> list[float]:
    """The share of right symbols 0, 1, ... 4 cells to the right."""
    images, symbols = sample(TESTS, seed=2)
    right = model.predict(images, verbose=0).argmax(axis=-1) == symbols
    return [round(float(right[:, INSIDE[:, d] > 0, d].mean()), 4) for d in range(GRID)]


def draw(figures: dict, model: keras.Model) -> Figure:
    """An image and where its corner looks, how much each model sees, and its accuracy by distance."""
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    images, _ = sample(1, seed=2)
    (maps,) = kt.attention_weights(model, images).values()
    weights = maps[0, :, 0].mean(axis=0).reshape(GRID, GRID)  # of the corner, the mean of the heads
    left.imshow(images[0, :, :, 0], cmap="gray")
    left.imshow(np.zeros((GRID, GRID)), cmap="autumn", alpha=0.7 * weights / weights.max(), extent=(0, SIDE, SIDE, 0))
    left.add_patch(Rectangle((0, 0), CELL, CELL, fill=False, edgecolor="tab:blue", linewidth=3))
    left.set(title="attention of the framed cell, in red", xticks=[], yticks=[])
    middle.barh(list(figures), [100 * one["cells_seen"] / CELLS for one in figures.values()])
    middle.set(title="part of the image that the corner sees", xlabel="%")
    middle.invert_yaxis()
    for name, one in figures.items():
        right.plot(one["accuracy"], "--o" if name == ATTENTION else "-o", label=name)
    right.set(title="symbols named", xlabel="cells to the right", ylabel="accuracy", ylim=(0, 1.02))
    right.set_xticks(range(GRID))
    right.legend()
    return figure


def main() -> None:
    """Look how far each sees, train it, and ask."""
    options = page.arguments(__doc__)
    figures = {}
    for layers in (*CONVOLUTIONS, 0):
        keras.utils.set_random_seed(page.SEED)
        model = build_model(layers)
        figures[f"convolution, {layers}" if layers else ATTENTION] = {
            "parameters": model.count_params(),
            "cells_seen": cells_seen(model),
            "accuracy": accuracy_by_distance(train(model)),
        }
    page.table(
        f"accuracy by distance after {STEPS} steps (chance: {1 / SYMBOLS:.0%})",
        ["layers", "weights", f"seen of {CELLS}", *map(str, range(GRID))],
        [
            [name, f"{one['parameters']:,}", one["cells_seen"], *(f"{share:.0%}" for share in one["accuracy"])]
            for name, one in figures.items()
        ],
    )
    beyond = [figures[f"convolution, {layers}"]["accuracy"][layers + 1 :] for layers in CONVOLUTIONS]
    page.write(
        options,
        __file__,
        "A convolution sees what its fixed filter covers; attention relates all parts of an image at once.",
        figures[ATTENTION]["cells_seen"] == CELLS
        and min(figures[ATTENTION]["accuracy"]) > 0.9
        and max(sum(beyond, [])) < 2 / SYMBOLS,
        {"cells": CELLS, "steps": STEPS, "batch": BATCH, "accuracy_by_chance": 1 / SYMBOLS, "models": figures},
        draw(figures, model),
    )


if __name__ == "__main__":
    main()
