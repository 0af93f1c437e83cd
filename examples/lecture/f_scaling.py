"""Claim: dot products grow with the width, the softmax saturates, its gradient vanishes; one division prevents it.

"Attention Is All You Need", section 3.2.1 (https://arxiv.org/abs/1706.03762):

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V

If the components of a query and of a key are independent with mean 0 and variance 1, their dot product has mean 0 and
variance d_k.

How it is measured. For each d_k, queries, keys and values of such components are drawn, and
`kt.ops.dot_product_attention` runs on them with `scale=1.0` and with its default, 1 / sqrt(d_k). From each: the
variance of the scores, the entropy of the attention weights over the largest possible one (log S), and two gradients
of a random projection of the output, one with respect to the scores (through `bias`, which is added to them) and one
with respect to the query. The norms of both are given as a mean over the draws and as their median: without the
division they have little in common, as a few draws whose two best scores happen to be close make up most of the mean.

    python examples/lecture/f_scaling.py
"""

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from page import SEED, arguments, table, write

import keras_transformer as kt

WIDTHS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
DRAWS, KEYS, VALUE_WIDTH = 2000, 64, 16
CLAIM = "Without the division by sqrt(d_k) the softmax saturates as d_k grows, and its gradient vanishes."


def measure(width: int, scale: float | None) -> dict:
    """Variance of the scores, relative entropy of the weights, and gradients, over draws that `width` decides."""
    rng = np.random.default_rng((SEED, width))
    query, key, value, direction = (
        tf.constant(rng.standard_normal((DRAWS, length, 1, size)), "float32")
        for length, size in ((1, width), (KEYS, width), (KEYS, VALUE_WIDTH), (1, VALUE_WIDTH))
    )
    zero = tf.zeros((DRAWS, 1, 1, KEYS))
    with tf.GradientTape() as tape:
        tape.watch([query, zero])
        output, weights = kt.ops.dot_product_attention(query, key, value, bias=zero, scale=scale, return_scores=True)
        projected = keras.ops.sum(output * direction)
    by_score, by_query = (
        np.linalg.norm(gradient.numpy().reshape(DRAWS, -1), axis=-1)
        for gradient in tape.gradient(projected, [zero, query])
    )
    weights = weights.numpy().astype("float64")
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=-1)
    scores = np.einsum("btk,bsk->bts", query[:, :, 0], key[:, :, 0]) * (width**-0.5 if scale is None else scale)
    return {
        "score_variance": float(scores.var()),
        "entropy_nats": float(entropy.mean()),
        "entropy_of_maximum": float(entropy.mean() / np.log(KEYS)),
        "largest_weight": float(weights.max(axis=-1).mean()),
        "score_gradient_mean": float(by_score.mean()),
        "score_gradient_median": float(np.median(by_score)),
        "query_gradient_mean": float(by_query.mean()),
        "query_gradient_median": float(np.median(by_query)),
    }


def draw(unscaled: list[dict], scaled: list[dict]) -> Figure:
    """Score variance, entropy and gradient against the width."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    variance, entropy, gradient = figure.subplots(1, 3)
    for rows, marker, label in ((unscaled, "o", "q k"), (scaled, "s", "q k / sqrt(d_k)")):
        variance.loglog(WIDTHS, [row["score_variance"] for row in rows], marker=marker, label=label)
        entropy.semilogx(WIDTHS, [row["entropy_of_maximum"] for row in rows], marker=marker, label=label)
        lines = gradient.loglog(WIDTHS, [row["score_gradient_median"] for row in rows], marker=marker, label=label)
        mean = [row["score_gradient_mean"] for row in rows]
        gradient.loglog(WIDTHS, mean, color=lines[0].get_color(), linestyle=":", label=f"{label}, mean")
    variance.loglog(WIDTHS, WIDTHS, color="gray", linestyle=":", label="d_k (theory)")
    variance.set(ylabel="variance of the scores")
    entropy.set(ylabel="entropy of the weights / log S", ylim=(0, 1))
    gradient.set(ylabel="norm of the scores' gradient (median)")
    for axes in (variance, entropy, gradient):
        axes.set_xlabel("d_k")
        axes.set_xticks(WIDTHS, WIDTHS, fontsize=7)
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Measure all widths, both ways."""
    options = arguments(__doc__)
    unscaled = [measure(width, 1.0) for width in WIDTHS]
    scaled = [measure(width, None) for width in WIDTHS]
    table(
        f"softmax over {KEYS} keys, {DRAWS} draws; each column: q k | q k / sqrt(d_k)",
        ["d_k", *(key.replace("_", " ") for key in unscaled[0])],
        [
            [width, *(f"{a[key]:.2g} | {b[key]:.2g}" for key in a)]
            for width, a, b in zip(WIDTHS, unscaled, scaled, strict=True)
        ],
    )
    variance_is_width = all(abs(a["score_variance"] / w - 1) < 0.05 for w, a in zip(WIDTHS, unscaled, strict=True))
    left = {
        f"{name}_{kind}": rows[-1][f"score_gradient_{kind}"] / rows[0][f"score_gradient_{kind}"]
        for name, rows in (("unscaled", unscaled), ("scaled", scaled))
        for kind in ("median", "mean")
    }
    saturates = unscaled[-1]["entropy_of_maximum"] < 0.1 and min(row["entropy_of_maximum"] for row in scaled) > 0.8
    vanishes = left["unscaled_median"] < 0.01 and left["unscaled_mean"] < 0.5
    kept = 0.8 < left["scaled_median"] < 1.25 and 0.8 < left["scaled_mean"] < 1.25
    holds = variance_is_width and saturates and vanishes and kept
    figures = {
        "keys": KEYS,
        "draws": DRAWS,
        "widths": WIDTHS,
        "unscaled": unscaled,
        "scaled": scaled,
        "score_gradient_at_largest_width_over_smallest": left,
    }
    write(options, __file__, CLAIM, holds, figures, draw(unscaled, scaled))


if __name__ == "__main__":
    main()
