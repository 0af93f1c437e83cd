"""Sequences that grow, and the tokens that each step adds to them."""

from collections.abc import Iterator

import numpy as np


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
            new = np.where(position < lengths, new, nothing).astype(np.int32)
            yield new if count == 1 else new.reshape(-1, count)
