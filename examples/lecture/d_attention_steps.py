"""Claim: attention is scores, softmax and weighted sum; self-attention asks the own sequence, cross-attention another.

"Attention Is All You Need", section 3.2 (https://arxiv.org/abs/1706.03762):

    scores = Q K^T / sqrt(d_k),   weights = softmax(scores),   output = weights V
    self-attention: Q, K and V from X;   cross-attention: Q from X, K and V from the memory M

How it is measured. First the three steps in NumPy on a sentence of four words with vectors written by hand, printed one
by one, and compared with `kt.ops.dot_product_attention`. Then a Transformer of one layer learns sentences of three to
five words whose order the other language turns around (subject verb object, as in English, to subject object verb, as
in Korean), from a grammar in this file, and `kt.attention_weights` shows its three attentions on sentences that it was
not trained on: their shapes, the sums of their rows, and how often the cross-attention that writes a word looks most at
the word that it translates.

    python examples/lecture/d_attention_steps.py
"""

import itertools

import keras
import numpy as np
from matplotlib.figure import Figure
from page import SEED, arguments, table, write

import keras_transformer as kt

WORDS = ("I", "love", "you", "dearly")
VECTORS = np.array([[2, 0, 1, 0], [0, 2, 0, 1], [1, 0, 2, 0], [0, 1, 0, 0.5]], "float32")  # person, act, person, act
SUBJECTS = {"I": "naneun", "you": "neoneun", "we": "urineun", "they": "geudeureun", "children": "aideureun"}
VERBS = {"love": "saranghanda", "see": "bonda", "know": "anda", "help": "domneunda", "find": "channeunda"}
OBJECTS = {"me": "nareul", "him": "geureul", "her": "geunyeoreul", "us": "urireul", "them": "geudeureul"}
WHEN = {"": "", "today": "oneul", "often": "jaju", "always": "hangsang"}
HOW = {"": "", "well": "jal", "quickly": "ppalli"}
MEANING = {word: key for part in (SUBJECTS, VERBS, OBJECTS, WHEN, HOW) for key, word in part.items()}
MARKS = ["<pad>", "<s>", "</s>"]
STEPS, BATCH, TESTS, SHOWN = 600, 64, 200, "we always love them well"
CLAIM = "Scores, softmax, weighted sum; self-attention asks the sentence itself, cross-attention the other sequence."


def by_hand(x: np.ndarray) -> dict:
    """Self-attention of vectors (T, D) in three steps, with Q = K = V = x."""
    scores = x @ x.T / np.sqrt(x.shape[-1])
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return {"scores": scores, "weights": weights, "output": weights @ x}


def sentences() -> list[tuple[list[str], list[str]]]:
    """All sentences of the grammar, in both orders."""
    pairs = []
    for subject, verb, object_, when, how in itertools.product(SUBJECTS, VERBS, OBJECTS, WHEN, HOW):
        source = [subject, when, verb, object_, how]
        target = [SUBJECTS[subject], WHEN[when], OBJECTS[object_], HOW[how], VERBS[verb]]
        pairs.append(([word for word in source if word], [word for word in target if word]))
    return pairs


def ids_of(rows: list[list[str]], vocabulary: list[str]) -> np.ndarray:
    """Ids (B, T), padded with 0."""
    return keras.utils.pad_sequences([[vocabulary.index(word) for word in row] for row in rows], padding="post")


def train(pairs, source_words: list[str], target_words: list[str]) -> keras.Model:
    """A Transformer of one layer and one head."""
    sizes = {"num_layers": 1, "dim": 64, "num_heads": 1, "intermediate_dim": 128, "dropout": 0.0}
    model = kt.models.transformer(len(source_words), len(target_words), **sizes)
    sources = ids_of([source for source, _ in pairs], source_words)
    targets = ids_of([["<s>", *target, "</s>"] for _, target in pairs], target_words)
    model.compile(keras.optimizers.Adam(2e-3), kt.training.SequenceCrossentropy())
    epochs = STEPS * BATCH // len(pairs)
    model.fit([sources, targets[:, :-1]], targets[:, 1:], batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def judge(model, pairs, source_words, target_words) -> tuple[dict, list]:
    """Figures on the sentences that were not trained on, and the three attentions of the one that is shown."""
    sources = ids_of([source for source, _ in pairs], source_words)
    targets = ids_of([["<s>", *target] for _, target in pairs], target_words)
    maps = kt.attention_weights(model, [sources, targets])
    encoder, decoder, cross = (weights[:, 0] for weights in maps.values())
    generator = kt.Generator(model, start_token=1, end_token=2, max_length=7)
    answers = [[target_words[i] for i in row if i > 2] for row in generator(sources)["tokens"][:, 0]]
    asks_right, on_right = [], []
    for weights, (source, target) in zip(cross, pairs, strict=True):
        for place, word in enumerate(target):
            translated = source.index(MEANING[word])
            asks_right.append(weights[place].argmax() == translated)
            on_right.append(weights[place, translated])
    i = [" ".join(source) for source, _ in pairs].index(SHOWN)
    source, target = pairs[i]
    read = ["<s>", *target]
    shown = [
        (encoder[i, : len(source), : len(source)], source, source, "self-attention of the encoder"),
        (decoder[i, : len(read), : len(read)], read, read, "self-attention of the decoder"),
        (cross[i, : len(target), : len(source)], target, source, "cross-attention"),
    ]
    figures = {
        "translated_exactly": float(np.mean([a == target for a, (_, target) in zip(answers, pairs, strict=True)])),
        "cross_attention_looks_most_at_the_word_it_translates": float(np.mean(asks_right)),
        "weight_on_that_word": float(np.mean(on_right)),
        "shapes_queries_keys": {path: list(weights.shape[2:]) for path, weights in maps.items()},
        "row_sum_error": float(max(np.abs(weights.sum(-1) - 1).max() for weights in maps.values())),
        "tests": len(pairs),
        "attention_of_the_sentence_shown": {
            title: weights.astype("float64").round(3).tolist() for weights, _, _, title in shown
        },
    }
    return figures, shown


def draw(steps: dict, shown: list) -> Figure:
    """The three steps of the sentence by hand, and below them the three attentions of the model."""
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    upper, lower = figure.subplots(2, 3)
    first = [
        (steps["scores"], WORDS, WORDS, "1. scores"),
        (steps["weights"], WORDS, WORDS, "2. softmax: attention weights"),
        (steps["output"], WORDS, range(steps["output"].shape[1]), "3. weighted sum: new vectors"),
    ]
    for axes, (numbers, rows, columns, title) in zip([*upper, *lower], [*first, *shown], strict=True):
        image = axes.imshow(numbers, cmap="viridis", aspect="auto", vmin=0, vmax=None if numbers.max() > 1 else 1)
        axes.set_xticks(range(len(columns)), columns, rotation=30)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_title(title)
        for (row, column), number in np.ndenumerate(numbers):
            bright = number > 0.6 * image.get_clim()[1]
            axes.text(column, row, f"{number:.2f}", ha="center", va="center", color="black" if bright else "white")
    lower[2].set(ylabel="asks: the word written", xlabel="answers: the source")
    return figure


def main() -> None:
    """The steps by hand, then the trained model."""
    options = arguments(__doc__)
    steps = by_hand(VECTORS)
    for title, name in (("Scores", "scores"), ("Attention weights", "weights"), ("Weighted sum", "output")):
        columns = WORDS if name != "output" else [str(i) for i in range(VECTORS.shape[1])]
        table(
            title, ["", *columns], [[w, *(f"{x:.3f}" for x in row)] for w, row in zip(WORDS, steps[name], strict=True)]
        )
    heads = VECTORS[None, :, None]  # (B, T, H, K)
    output, weights = kt.ops.dot_product_attention(heads, heads, heads, return_scores=True)
    difference = max(
        float(np.abs(np.asarray(output)[0, :, 0] - steps["output"]).max()),
        float(np.abs(np.asarray(weights)[0, 0] - steps["weights"]).max()),
    )
    assert difference < 1e-6, f"kt.ops.dot_product_attention differs from the steps by {difference}"

    pairs = sentences()
    source_words = ["<pad>", *sorted({word for source, _ in pairs for word in source})]
    target_words = [*MARKS, *sorted({word for _, target in pairs for word in target})]
    np.random.default_rng(SEED).shuffle(pairs)
    pairs.sort(key=lambda pair: " ".join(pair[0]) != SHOWN)  # the one that is shown comes first, and is not trained on
    model = train(pairs[TESTS:], source_words, target_words)
    figures, shown = judge(model, pairs[:TESTS], source_words, target_words)
    table(
        "not trained on",
        ["", "measured"],
        [[key, str(value)] for key, value in figures.items() if "sentence" not in key],
    )
    holds = figures["row_sum_error"] < 1e-5 and figures["translated_exactly"] > 0.95
    holds = holds and figures["cross_attention_looks_most_at_the_word_it_translates"] > 0.8
    by_hand_figures = {name: numbers.round(4).tolist() for name, numbers in steps.items()}
    figures = {"words": WORDS, "steps": by_hand_figures, "difference_from_the_library": difference, **figures}
    write(options, __file__, CLAIM, holds, figures, draw(steps, shown))


if __name__ == "__main__":
    main()
