"""Claim: an LSTM has three gates to compute, so that it takes longer than a SimpleRNN.

With D the width of input and state:

    SimpleRNN  h_t = tanh(W x_t + U h_{t-1} + b)                                            2 D^2 +  D parameters
    LSTM       i, f, o = sigmoid(...), g = tanh(...), each with W, U and b of its own
               c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)        ("Long Short-Term Memory";  8 D^2 + 4 D
               the forget gate: Gers et al., "Learning to Forget")
    GRU        two gates and a candidate (https://arxiv.org/abs/1406.1078)                  6 D^2 + 6 D
    attention  softmax(Q K^T / sqrt(d_k)) V, projected (https://arxiv.org/abs/1706.03762)   4 D^2 + 4 D

How it is measured. One layer of each kind and of the same width (`keras.layers.SimpleRNN`, `GRU`, `LSTM`, and for
comparison `kt.MultiHeadSelfAttention`), a mean squared error, Adam, `train_on_batch`. The models take turns, a few
steps each, in one process, so that a machine that slows down slows all of them; the figures are medians over the
rounds. Run it on a machine that does nothing else. How much of the time is arithmetic and how much is the loop is the
machine's and the library's affair: each token of a recurrence is little work, and the loop's price for it is the same
with and without gates.

    python examples/lecture/b_lstm_cost.py
"""

import statistics
import time

import keras
import numpy as np
from matplotlib.figure import Figure
from page import SEED, arguments, table, write

import keras_transformer as kt

WIDTH, BATCH, HEADS = 256, 32, 4
LENGTHS = (16, 64, 256)
ROUNDS, STEPS = 9, 3
KINDS = {
    "SimpleRNN": lambda: keras.layers.SimpleRNN(WIDTH, return_sequences=True),
    "GRU": lambda: keras.layers.GRU(WIDTH, return_sequences=True),
    "LSTM": lambda: keras.layers.LSTM(WIDTH, return_sequences=True),
    "self-attention": lambda: kt.MultiHeadSelfAttention(HEADS),
}
CLAIM = "An LSTM has three gates to compute, so that it takes longer than a SimpleRNN."


def build_model(kind: str, length: int) -> keras.Model:
    """One layer, ready to train."""
    inputs = keras.Input((length, WIDTH))
    model = keras.Model(inputs, KINDS[kind]()(inputs))
    model.compile("adam", "mean_squared_error")
    return model


def measure(length: int) -> dict[str, list[float]]:
    """Milliseconds of a training step, for each round of each kind."""
    x, y = np.random.default_rng(SEED).standard_normal((2, BATCH, length, WIDTH)).astype("float32")
    models = {kind: build_model(kind, length) for kind in KINDS}
    for model in models.values():
        for _ in range(2):  # the first compiles
            model.train_on_batch(x, y)
    taken = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, model in models.items():
            begin = time.perf_counter()
            for _ in range(STEPS):
                model.train_on_batch(x, y)
            taken[kind].append((time.perf_counter() - begin) / STEPS * 1e3)
    return taken


def draw(milliseconds: dict) -> Figure:
    """Time against length, and the ratio to the SimpleRNN."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    for kind in KINDS:
        values = [milliseconds[length][kind] for length in LENGTHS]
        absolute.loglog(LENGTHS, values, marker="o", label=kind)
        relative.semilogx(
            LENGTHS,
            [v / milliseconds[n]["SimpleRNN"] for n, v in zip(LENGTHS, values, strict=True)],
            marker="o",
            label=kind,
        )
    absolute.set(ylabel="ms per training step")
    relative.set(ylabel="time / time of a SimpleRNN", ylim=(0, None))
    for axes in (absolute, relative):
        axes.set_xlabel("length of the sequence")
        axes.set_xticks(LENGTHS, LENGTHS)
        axes.set_xticks([], minor=True)
    absolute.legend()
    return figure


def main() -> None:
    """Measure all lengths."""
    options = arguments(__doc__)
    rounds = {length: measure(length) for length in LENGTHS}
    milliseconds = {n: {kind: statistics.median(taken) for kind, taken in one.items()} for n, one in rounds.items()}
    ratios = {n: {kind: ms / one["SimpleRNN"] for kind, ms in one.items()} for n, one in milliseconds.items()}
    parameters = {kind: build_model(kind, LENGTHS[0]).count_params() for kind in KINDS}
    table(
        f"ms per training step (times SimpleRNN), width {WIDTH}, batch {BATCH}",
        ["", "parameters", *(f"length {length}" for length in LENGTHS)],
        [
            [kind, f"{parameters[kind]:,}", *(f"{milliseconds[n][kind]:.1f} ({ratios[n][kind]:.2f})" for n in LENGTHS)]
            for kind in KINDS
        ],
    )
    figures = {
        "width": WIDTH,
        "batch": BATCH,
        "lengths": LENGTHS,
        "parameters": parameters,
        "milliseconds": milliseconds,
        "times_simple_rnn": ratios,
    }
    write(options, __file__, CLAIM, all(one["LSTM"] > 1.1 for one in ratios.values()), figures, draw(milliseconds))


if __name__ == "__main__":
    main()
