"""Sequences that grow, and the text that each step adds to them."""

from collections.abc import Iterator

import numpy as np

from keras_transformer.decoding.texts import Texts

INCOMPLETE = "\ufffd"  # what bytes read as that are no character, or not yet


def new_texts(carries: Iterator[dict[str, np.ndarray]], count: int, texts: Texts) -> Iterator[list]:
    """The text that each carry has more than the one before, a list of B strings, or of B lists of N: together they are
    the text behind the prompt.

    What might still become another character, bytes that are none yet, waits for the tokens that follow.

    Args:
        carries: `tokens` (B N, L), `lengths` and `finished` (B N,), before the first step and after each.
        count: Number of sequences of each row.
        texts: The tokenizers.
    """
    begun = next(carries)
    given = [text.rstrip(INCOMPLETE) for text in texts.decode(begun["tokens"], begun["lengths"])]
    for carry in carries:
        pieces = []
        for row, text in enumerate(texts.decode(carry["tokens"], carry["lengths"])):
            text = text if carry["finished"][row] else text.rstrip(INCOMPLETE)
            pieces.append(text[len(given[row]) :] if text.startswith(given[row]) else "")
            given[row] += pieces[-1]
        yield pieces if count == 1 else [pieces[i : i + count] for i in range(0, len(pieces), count)]
