"""Claim: a query is compared with every key, and the value of the best key is what comes back.

"Attention Is All You Need", section 3.2.1 (https://arxiv.org/abs/1706.03762):

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V,   Q = X W_Q, K = X W_K, V = X W_V

How it is measured. A sequence is eight pairs, (name, content), and a ninth with a name only, the question. Each pair
is one position: the embedding of its name beside that of its content. One `kt.MultiHeadSelfAttention` with one head
and a dense layer on its last position have to give the content that stands beside the name asked for. The question
itself is masked: it has the name that is asked for, too. One in four of the 512 combinations of name and content is
never the answer in training; the test asks for those alone. Besides accuracy: the weight on the pair asked for, from
`kt.attention_weights`, and what becomes of the answer when the content of that pair is replaced, or when the contents
of all others are.

    python examples/lecture/e_query_key_value.py
"""

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure
from page import SEED, arguments, table, write

import keras_transformer as kt

NAMES, CONTENTS, PAIRS, WIDTH = 32, 16, 8, 32
EXAMPLES, TESTS, BATCH, EPOCHS = 40_000, 2_000, 128, 4
NOTHING = CONTENTS  # the content of the question
CLAIM = "A query finds the key that belongs to it, and brings back that key's value."


def build_model() -> keras.Model:
    """Names and contents (B, PAIRS + 1) to the logits of a content."""
    names = keras.Input((PAIRS + 1,), dtype="int32", name="names")
    contents = keras.Input((PAIRS + 1,), dtype="int32", name="contents")
    pairs = keras.layers.Concatenate()(
        [keras.layers.Embedding(NAMES, WIDTH)(names), keras.layers.Embedding(CONTENTS + 1, WIDTH)(contents)]
    )
    is_pair = np.tile(np.arange(PAIRS + 1) < PAIRS, (PAIRS + 1, 1))  # (T, S)
    found = kt.MultiHeadSelfAttention(1, name="attention")(pairs, attention_mask=is_pair)
    return keras.Model([names, contents], keras.layers.Dense(CONTENTS, name="answer")(found[:, -1]))


def held_out(names, contents):
    """Whether a combination is kept for the test."""
    return (names + contents) % 4 == 0


def draw_lookups(rng, count: int, test: bool):
    """Names and contents (count, PAIRS + 1), the place of the pair asked for, and its content."""
    names = rng.permuted(np.tile(np.arange(NAMES), (count, 1)), axis=1)[:, : PAIRS + 1]
    contents = rng.integers(0, CONTENTS, (count, PAIRS + 1))
    places, rows = rng.integers(0, PAIRS, count), np.arange(count)
    asked = names[rows, places]
    wrong = held_out(asked, contents[rows, places]) != test
    while wrong.any():
        contents[rows[wrong], places[wrong]] = rng.integers(0, CONTENTS, wrong.sum())
        wrong = held_out(asked, contents[rows, places]) != test
    names[:, -1], contents[:, -1] = asked, NOTHING
    return names.astype("int32"), contents.astype("int32"), places, contents[rows, places]


def draw(weights, names, contents) -> Figure:
    """Who looks where, in one look-up."""
    labels = [
        f"{name}: {'?' if content == NOTHING else content}" for name, content in zip(names, contents, strict=True)
    ]
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights[-1:], cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(PAIRS + 1), labels)
    axes.set_yticks([0], [f"query: {names[-1]}"])
    axes.set(xlabel="position (name: content)", title="attention weights of the question")
    for place, weight in enumerate(weights[-1]):
        axes.text(place, 0, f"{weight:.3f}", ha="center", va="center", color="black" if weight > 0.5 else "white")
    figure.colorbar(image, ax=axes)
    return figure


def main() -> None:
    """Train, ask what was never asked, and look where the model looks."""
    options = arguments(__doc__)
    rng = np.random.default_rng(SEED)
    model = build_model()
    model.compile(keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    names, contents, _, answers = draw_lookups(rng, EXAMPLES, test=False)
    model.fit([names, contents], answers, batch_size=BATCH, epochs=EPOCHS, verbose=2)

    names, contents, places, answers = draw_lookups(rng, TESTS, test=True)
    rows = np.arange(TESTS)

    def answer(contents):
        return ops.convert_to_numpy(model([names, contents])).argmax(-1)

    (weights,) = kt.attention_weights(model, [names, contents]).values()
    on_pair = weights[rows, 0, -1, places]
    other = (contents + rng.integers(1, CONTENTS, contents.shape)) % CONTENTS  # differs from `contents` everywhere
    is_pair, is_question = np.arange(PAIRS + 1) == places[:, None], np.arange(PAIRS + 1) == PAIRS
    value_changed = answer(np.where(is_pair, other, contents))
    others_changed = answer(np.where(is_pair | is_question, contents, other))
    figures = {
        "accuracy": float(np.mean(answer(contents) == answers)),
        "largest_weight_on_the_pair": float(np.mean(weights[:, 0, -1].argmax(-1) == places)),
        "weight_on_the_pair_mean": float(on_pair.mean()),
        "weight_on_the_pair_least": float(on_pair.min()),
        "answer_follows_its_value": float(np.mean(value_changed == other[rows, places])),
        "answer_ignores_other_values": float(np.mean(others_changed == answers)),
        "pairs": PAIRS,
        "names": NAMES,
        "contents": CONTENTS,
        "tests": TESTS,
        "parameters": model.count_params(),
        "training_steps": EPOCHS * EXAMPLES // BATCH,
    }
    table("look-ups never asked for in training", ["", "measured"], [[key, f"{x:.4g}"] for key, x in figures.items()])
    shares = ("accuracy", "largest_weight_on_the_pair", "answer_follows_its_value", "answer_ignores_other_values")
    holds = all(figures[share] > 0.99 for share in shares)
    write(options, __file__, CLAIM, holds, figures, draw(weights[0, 0], names[0], contents[0]))


if __name__ == "__main__":
    main()
