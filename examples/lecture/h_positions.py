"""Claim: without positional encoding a Transformer does not know the order of the words.

    f(P x) = P f(x) for every permutation P, if f is an encoder without positions; with them,
    x[p, 2i] + sin(p / 10000^(2i / D)), x[p, 2i + 1] + cos(p / 10000^(2i / D)), it is not so
    ("Attention Is All You Need", section 3.5, https://arxiv.org/abs/1706.03762)

The words of a sentence are shuffled, and the encoder's outputs put back in the sentence's order: the largest difference
from the outputs for the sentence itself is rounding without positions. Nothing is trained: this holds for any weights.
Then the mean of the outputs is compared for two sentences of the same words that mean different things.

    python examples/lecture/h_positions.py
"""

import keras
import numpy as np
import page
from matplotlib.figure import Figure

import keras_transformer as kt

DIM, LAYERS, HEADS = 64, 3, 4
SENTENCES = ("the dog bites the man", "the man bites the dog")
ENCODERS = ("without positions", "with positions")


def build_encoder(size: int, positions: bool) -> keras.Model:
    """A stack of encoder layers, whose weights do not depend on whether positions are added."""
    keras.utils.set_random_seed(page.SEED)
    tokens = keras.Input((None,), dtype="int32")
    x = kt.TokenEmbedding(size, DIM, scale=True)(tokens)
    if positions:
        x = kt.PositionalEncoding()(x)
    for _ in range(LAYERS):
        x = kt.EncoderLayer(HEADS, 4 * DIM)(x)
    return keras.Model(tokens, x)


def encode(encoder: keras.Model, tokens: np.ndarray) -> np.ndarray:
    """The outputs for one sequence, (T, D)."""
    return keras.ops.convert_to_numpy(encoder(tokens))[0]


def main() -> None:
    """Shuffle, compare, and draw the sinusoids."""
    options = page.arguments(__doc__)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    first, second = (np.array([[1 + words.index(word) for word in text.split()]]) for text in SENTENCES)
    random = np.random.default_rng(page.SEED)
    sentence, order = random.integers(1, 101, (1, 19)), random.permutation(19)

    shuffled, means = {}, {}
    for name, positions in zip(ENCODERS, (False, True), strict=True):
        encoder = build_encoder(101, positions)
        difference = encode(encoder, sentence[:, order]) - encode(encoder, sentence)[order]  # f(P x) - P f(x)
        shuffled[name] = float(f"{np.abs(difference).max():.2e}")
        difference = encode(encoder, first).mean(axis=0) - encode(encoder, second).mean(axis=0)
        means[name] = float(f"{np.abs(difference).max():.2e}")
    page.table(
        "Largest differences in float32 (outputs are of size 1)",
        ["encoder", "shuffled sentence", " / ".join(SENTENCES)],
        [[name, shuffled[name], means[name]] for name in ENCODERS],
    )

    table_of_positions = kt.PositionalEncoding()(np.zeros((1, 64, DIM), "float32"))
    sinusoids = np.asarray(keras.ops.convert_to_numpy(table_of_positions), "float64")[0]
    products = sinusoids @ sinusoids.T
    # The product of two positions depends on their distance alone: the diagonals are constant.
    spread = max(float(np.ptp(np.diagonal(products, distance))) for distance in range(64))
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    figure.colorbar(left.imshow(sinusoids, aspect="auto", cmap="RdBu"), ax=left)
    left.set(title="sinusoids added to the embeddings", xlabel="dimension", ylabel="position")
    figure.colorbar(middle.imshow(products), ax=middle)
    middle.set(title="products of two positions' sinusoids", xlabel="position", ylabel="position")
    right.bar(ENCODERS, [shuffled[name] for name in ENCODERS])
    right.set(yscale="log", title="largest |f(Px) - P f(x)|")

    without, having = ENCODERS
    page.write(
        options,
        __file__,
        "Without positional encoding the order of the words is unknown; with it, it is known.",
        max(shuffled[without], means[without]) < 1e-5 and min(shuffled[having], means[having]) > 1e-2,
        {
            "largest_difference_shuffled": shuffled,
            "sentences": list(SENTENCES),
            "largest_difference_of_means": means,
            "spread_of_products_at_one_distance": float(f"{spread:.1e}"),
        },
        figure,
    )


if __name__ == "__main__":
    main()
