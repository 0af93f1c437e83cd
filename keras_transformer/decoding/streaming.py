"""Sequences that grow, and what each step adds to them: tokens, or text."""

from collections.abc import Iterator

import numpy as np

from keras_transformer.decoding.texts import Texts

INCOMPLETE = "\ufffd"  # what bytes read as that are no character, or not yet


def new_tokens(carries: Iterator[dict[str, np.ndarray]], count: int, nothing: int) -> Iterator[np.ndarray]:
    """The tokens (B,), or (B, N) for `count` = N above 1, that each carry has more than the one before; `nothing` where
    a row has none.

    Args:
        carries: `tokens` (B N, L) and `lengths` (B N,), before the first step and after each.
        count: Number of sequences of each row.
        nothing: What stands where a row has no new token.
    """
    lengths = next(carries)["lengths"]
    for carry in carries:
        before, lengths, tokens = lengths, carry["lengths"], carry["tokens"]
        for offset in range(int((lengths - before).max(initial=0))):
            position = before + offset
            new = tokens[np.arange(len(tokens)), np.minimum(position, tokens.shape[1] - 1)]
            new = np.where(position < lengths, new, nothing).astype("int32")
            yield new if count == 1 else new.reshape(-1, count)


def new_texts(carries: Iterator[dict[str, np.ndarray]], count: int, texts: Texts) -> Iterator[list]:
    """The text that each carry has more than the one before, a list of B strings, or of B lists of N: together they are
    the text behind the prompt.

    What might still become another character, bytes that are none yet, waits for the tokens that follow.

    Args:
        carries: As of `new_tokens`, with `finished` (B N,).
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
