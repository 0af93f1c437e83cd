"""Seeds of random numbers: any integer, folded to the 32 bits that an export and a `Generator` take."""

import random

import numpy as np


def fold_seed(seed: int | np.integer | np.ndarray | None) -> int:
    """A seed as an integer of 32 bits: an integer of any size, folded if it has more, a fresh one for None.

    Fresh ones are drawn by Python's `random`.

    Raises:
        ValueError: If it is something else.

    Example:

    >>> fold_seed(7), fold_seed(-1), fold_seed(2**32 - 1), fold_seed(2**40) != fold_seed(2**41)
    (7, -1, -1, True)
    """
    if seed is None:
        seed = random.getrandbits(32)
    if isinstance(seed, np.ndarray) and seed.shape == ():
        seed = seed[()]
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"A seed is an integer, or None for a fresh one, got {seed!r}.")
    seed = int(seed)
    if not -(2**31) <= seed < 2**32:  # not the lower bits alone: other seeds have them, too
        seed = int(np.random.SeedSequence([seed < 0, abs(seed)]).generate_state(1)[0])
    return (seed + 2**31) % 2**32 - 2**31
