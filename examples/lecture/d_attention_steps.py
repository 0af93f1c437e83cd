"""Attention step by step, and who asks whom: cross-attention against self-attention.

The claim: attention is three steps, scores, softmax and weighted sum; in self-attention a sentence asks itself, in
cross-attention one sequence asks another. The formula ("Attention Is All You Need", section 3.2,
https://arxiv.org/abs/1706.03762):

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
PADDING, START, END = range(3)
STEPS, BATCH, SHOWN = 600, 64, "we always love them well"
CLAIM = "Scores, softmax, weighted sum; self-attention asks the sentence itself, cross-attention the other sequence."


def by_hand(x: np.ndarray) -> dict:
    """Self-attention of vectors (T, D) in three steps, with Q = K = V = x."""
    scores = x @ x.T / np.sqrt(x.shape[-1])
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return {"scores": scores, "weights": weights, "output": weights @ x}


def sentences() -> list[tuple[list[str], list[str]]]:
    """All sentences of the grammar, (when) subject (how) ... in both orders, and what each word is."""
    pairs = []
    for subject, verb, object_, when, how in itertools.product(SUBJECTS, VERBS, OBJECTS, WHEN, HOW):
        source = [subject, when, verb, object_, how]
        target = [SUBJECTS[subject], WHEN[when], OBJECTS[object_], HOW[how], VERBS[verb]]
        pairs.append(([word for word in source if word], [word for word in target if word]))
    return pairs


def ids_of(rows: list[list[str]], vocabulary: list[str]) -> np.ndarray:
    return keras.utils.pad_sequences([[vocabulary.index(word) for word in row] for row in rows], padding="post")


def train(pairs, source_vocabulary, target_vocabulary) -> keras.Model:
    """A Transformer of one layer and one head."""
    model = kt.models.transformer(
        len(source_vocabulary), len(target_vocabulary), num_layers=1, dim=64, num_heads=1, intermediate_dim=128, dropout=0.0
    )
    sources = ids_of([source for source, _ in pairs], source_vocabulary)
    targets = ids_of([["<s>", *target, "</s>"] for _, target in pairs], target_vocabulary)
    model.compile(keras.optimizers.Adam(2e-3), kt.training.SequenceCrossentropy())
    epochs = STEPS * BATCH // len(pairs)
    model.fit([sources, targets[:, :-1]], targets[:, 1:], batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def main() -> None:
    print("x")


if __name__ == "__main__":
    main()
