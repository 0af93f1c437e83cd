"""Claim: one head averages all relations into one and loses some of them; several heads keep them apart.

    MultiHead(X) = Concat(head_1, ..., head_H) W_O,  head_h = Attention(X W_Q,h, X W_K,h, X W_V,h)
    ("Attention Is All You Need", section 3.2.2, https://arxiv.org/abs/1706.03762)

The task needs eight relations at once: each position has to name the tokens 1 to 4 places before and behind it, from
one attention layer and a linear output. The layer is always 512 wide with the same number of weights; only the number
of heads that share the width differs, from one head of 512 to eight of 64. What is reported is the accuracy on fresh
sequences, the mean of three seeds.

    python examples/lecture/g_heads.py
"""

import keras
import numpy as np
import page
from matplotlib.figure import Figure

import keras_transformer as kt

OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)
HEADS = (1, 2, 4, 8)
SEEDS = (0, 1, 2)
DIM, LENGTH, TOKENS, BATCH, STEPS = 512, 16, 23, 32, 300


def sample(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens (B, T) from 1 on, and those that stand around each, in a circle, (B, T, 8)."""
    tokens = np.random.default_rng(seed).integers(1, TOKENS + 1, (rows, LENGTH))
    return tokens, np.stack([np.roll(tokens, -offset, axis=1) for offset in OFFSETS], axis=-1)


def build_model(heads: int) -> keras.Model:
    """One attention layer, and for each relation a linear map to the tokens."""
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(TOKENS + 1, DIM, scale=True)(tokens))
    x = kt.MultiHeadSelfAttention(heads, name="attention")(x)
    shape = (LENGTH, len(OFFSETS), TOKENS + 1)
    return keras.Model(tokens, keras.layers.EinsumDense("btd,drv->btrv", shape, bias_axes="rv")(x))


def train(heads: int, seed: int) -> tuple[keras.Model, list[float], float]:
    """A trained model, its loss at each step, and its accuracy on fresh sequences."""
    keras.utils.set_random_seed(seed)
    model = build_model(heads)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    losses = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: losses.append(logs["loss"]))
    for part in range(STEPS // 50):  # Keras reports the mean since an epoch began
        tokens, labels = sample(50 * BATCH, seed=1000 * (seed + 1) + part)
        model.fit(tokens, labels, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[note])
    return model, losses[49::50], model.evaluate(*sample(512, seed=1), verbose=0)[1]


def favourites(maps: np.ndarray) -> list[dict]:
    """The offset, in a circle, at which each head looks most, and its weight on average; of maps (H, T, T)."""
    offsets = range(-LENGTH // 2, LENGTH // 2)
    places = np.arange(LENGTH)
    shares = np.array([maps[:, places, (places + offset) % LENGTH].mean(axis=-1) for offset in offsets])  # (T, H)
    return [
        {"offset": offsets[most], "weight": round(float(shares[most, head]), 4)}
        for head, most in enumerate(shares.argmax(axis=0))
    ]


def main() -> None:
    """Train each number of heads with each seed, and compare."""
    options = page.arguments(__doc__)
    runs = {heads: [train(heads, seed) for seed in SEEDS] for heads in HEADS}
    weights = {heads: runs[heads][0][0].get_layer("attention").count_params() for heads in HEADS}
    accuracy = {heads: [round(float(run[2]), 4) for run in runs[heads]] for heads in HEADS}
    means = {heads: round(float(np.mean(accuracy[heads])), 4) for heads in HEADS}
    loss = {heads: round(float(np.mean([run[1][-1] for run in runs[heads]])), 4) for heads in HEADS}
    page.table(
        f"{len(OFFSETS)} relations from one attention layer of width {DIM}, after {STEPS} steps",
        ["heads", "width of a head", "weights of the layer", "loss", "accuracy", "by seed"],
        [[h, DIM // h, f"{weights[h]:,}", loss[h], f"{means[h]:.1%}", accuracy[h]] for h in HEADS],
    )

    figure = Figure(figsize=(14, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    axes = left.subplots()
    axes.bar([str(h) for h in HEADS], [means[h] for h in HEADS])
    axes.set(xlabel=f"heads (together {DIM} wide)", ylabel="accuracy, mean of 3 seeds", ylim=(0, 1.02))
    right.suptitle("attention maps, mean over 64 sequences (row: position that asks)")
    panels, looks_at = right.subplots(2, 5).flat, {}
    for heads in (1, 8):
        maps = kt.attention_weights(runs[heads][0][0], sample(64, seed=2)[0])["attention"].mean(axis=0)
        looks_at[heads] = favourites(maps)
        for number, scores in enumerate(maps, start=1):
            axes = next(panels)
            axes.imshow(scores, vmin=0, vmax=1)
            axes.set(title="the only head" if heads == 1 else f"head {number} of 8", xticks=[], yticks=[])
    next(panels).axis("off")
    page.write(
        options,
        __file__,
        "One head averages all relations into one and misses some; eight heads of 64 keep them apart.",
        len(set(weights.values())) == 1 and min(accuracy[8]) > max(accuracy[1]) + 0.1,
        {
            "relations": len(OFFSETS),
            "dim": DIM,
            "steps": STEPS,
            "seeds": list(SEEDS),
            "accuracy_by_chance": round(1 / TOKENS, 4),
            "attention_weights": weights[8],
            "width_of_a_head": {str(h): DIM // h for h in HEADS},
            "accuracy": {str(h): means[h] for h in HEADS},
            "accuracy_by_seed": {str(h): accuracy[h] for h in HEADS},
            "loss": {str(h): loss[h] for h in HEADS},
            "looks_most_at": {str(heads): places for heads, places in looks_at.items()},
        },
        figure,
    )


if __name__ == "__main__":
    main()
