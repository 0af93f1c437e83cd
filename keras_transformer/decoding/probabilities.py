"""Whether a model gives logits or probabilities."""

import numpy as np


def check_scores(name: str, scores: np.ndarray, from_logits: bool) -> None:
    """Raise ValueError if a model gives probabilities (..., V) where `from_logits`, or none where not `from_logits`.

    Probabilities are numbers from 0 that sum to 1 in every row; that logits are so by chance is next to impossible.
    """
    if scores.shape[-1] < 2 or not scores.size:
        return
    # Rounding to half precision moves a sum of 1 by less than 1 / 100.
    are_probabilities = bool((scores >= 0).all() and (np.abs(scores.sum(axis=-1, dtype="float64") - 1) < 1e-2).all())
    if from_logits and are_probabilities:
        raise ValueError(
            f"The model '{name}' gives probabilities: numbers from 0 that sum to 1 in every row. Generator takes them "
            "for logits unless it is made with from_logits=False."
        )
    if not from_logits and not are_probabilities:
        raise ValueError(
            f"Generator was made with from_logits=False, but the model '{name}' gives no probabilities: its rows have "
            f"numbers from {scores.min():.3g} to {scores.max():.3g} and sums from {scores.sum(axis=-1).min():.3g} to "
            f"{scores.sum(axis=-1).max():.3g}. For logits, leave from_logits away; or end the model in a softmax."
        )
