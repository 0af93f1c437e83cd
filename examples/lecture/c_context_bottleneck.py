"""Claim: one fixed context vector loses more the longer the source is; attention takes most of the loss away.

An encoder-decoder knows the source by the context vectors c_t that its decoder gets:

    fixed    c_t = h_S, the encoder's last state, for every t            https://arxiv.org/abs/1406.1078
    dynamic  c_t = sum over j of a_tj h_j,  a_t = softmax over j of score(s, h_j)
             score = v^T tanh(W s_{t-1} + U h_j + b), "additive"         https://arxiv.org/abs/1409.0473
             score = s_t . h_j, "dot"                                    https://arxiv.org/abs/1508.04025

How it is measured. Four `kt.models.recurrent_seq2seq` of the same width, three with GRUs, learn to write random
sequences of 4 to 30 symbols backwards, from the same data in the same number of steps. Then each writes 100 new
sequences of each length with `kt.Generator` (greedy, from its cache): the share of symbols that stand where they
should, and of sequences that are right as a whole.

    python examples/lecture/c_context_bottleneck.py
"""

import keras
import numpy as np
from matplotlib.figure import Figure
from page import SEED, arguments, table, write

import keras_transformer as kt

START, END, FIRST = 1, 2, 3  # ids; 0 is padding
SYMBOLS, SHORTEST, LONGEST = 20, 4, 30
WIDTH, STEPS, BATCH, TESTS = 128, 900, 64, 100
LENGTHS = range(SHORTEST, LONGEST + 1, 2)
KINDS = {
    "fixed_rnn": {"cell": "rnn"},
    "fixed": {"cell": "gru"},
    "dot": {"cell": "gru", "attention": "dot"},
    "additive": {"cell": "gru", "attention": "additive"},
}
LABELS = {
    "fixed_rnn": "one fixed context vector, RNN",
    "fixed": "one fixed context vector, GRU",
    "dot": "GRU with attention, dot",
    "additive": "GRU with attention, additive",
}
CLAIM = "One fixed context vector loses more the longer the source is; attention takes most of the loss away."


def draw_pairs(rng, lengths) -> tuple[np.ndarray, np.ndarray]:
    """Sources (B, LONGEST) and, with start and end, the same backwards (B, LONGEST + 2)."""
    sources = np.zeros((len(lengths), LONGEST), "int32")
    targets = np.zeros((len(lengths), LONGEST + 2), "int32")
    targets[:, 0] = START
    for source, target, length in zip(sources, targets, lengths, strict=True):
        source[:length] = rng.integers(FIRST, FIRST + SYMBOLS, length)
        target[1 : length + 2] = [*source[:length][::-1], END]
    return sources, targets


def train(choice: dict) -> keras.Model:
    """A model that has seen what the others see."""
    keras.utils.set_random_seed(SEED)
    vocabulary = FIRST + SYMBOLS
    model = kt.models.recurrent_seq2seq(vocabulary, vocabulary, dim=WIDTH, **choice)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, STEPS), clipnorm=1.0)
    model.compile(optimizer, kt.training.SequenceCrossentropy())
    rng = np.random.default_rng(SEED)
    sources, targets = draw_pairs(rng, rng.integers(SHORTEST, LONGEST + 1, STEPS * BATCH))
    model.fit([sources, targets[:, :-1]], targets[:, 1:], batch_size=BATCH, verbose=2)
    return model


def accuracy_by_length(model: keras.Model) -> dict:
    """Of symbols and of whole sequences, as the model writes them by itself."""
    generator = kt.Generator(model, start_token=START, end_token=END, max_length=LONGEST + 2)
    rng = np.random.default_rng(SEED + 1)
    symbols, sequences = [], []
    for length in LENGTHS:
        sources, targets = draw_pairs(rng, [length] * TESTS)
        right = np.asarray(generator(sources)["tokens"])[:, 0] == targets
        symbols.append(float(right[:, 1 : length + 1].mean()))
        sequences.append(float(right[:, 1 : length + 2].all(axis=1).mean()))
    return {"parameters": model.count_params(), "symbols_right": symbols, "sequences_right": sequences}


def draw(figures: dict) -> Figure:
    """Accuracy against length."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2, sharey=True), ("symbols_right", "sequences_right"), strict=True):
        for kind, label in LABELS.items():
            axes.plot(LENGTHS, figures[kind][key], marker="o", label=label)
        axes.set(xlabel="length of the source", title=key.replace("_", " "), ylim=(-0.02, 1.02))
    axes.legend(loc="center right")
    return figure


def main() -> None:
    """Train and judge all four."""
    options = arguments(__doc__)
    figures = {kind: accuracy_by_length(train(choice)) for kind, choice in KINDS.items()}
    table(
        f"symbols right | sequences right, after {STEPS} steps",
        ["length", *LABELS.values()],
        [
            [length, *(f"{one['symbols_right'][i]:.2f} | {one['sequences_right'][i]:.2f}" for one in figures.values())]
            for i, length in enumerate(LENGTHS)
        ],
    )
    lost = {kind: one["symbols_right"][0] - one["symbols_right"][-1] for kind, one in figures.items()}
    holds = lost["fixed"] > 0.2 and max(lost["dot"], lost["additive"]) < lost["fixed"] / 5
    sizes = {"steps": STEPS, "batch": BATCH, "width": WIDTH, "symbols": SYMBOLS, "tests_per_length": TESTS}
    figures_and_sizes = {**sizes, "lengths": list(LENGTHS), **figures, "lost_from_shortest_to_longest": lost}
    write(options, __file__, CLAIM, holds, figures_and_sizes, draw(figures))


if __name__ == "__main__":
    main()
