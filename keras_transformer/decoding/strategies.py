"""How the next token is chosen, as small objects that a Generator is given."""

from dataclasses import dataclass

from keras import ops


class Strategy:
    """Chooses each next token."""

    def select(self, log_probabilities):
        """The next token of each row.

        Args:
            log_probabilities: (B, V), float32; tokens that must not be chosen have a very low one.

        Returns:
            (B,), int32.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Greedy(Strategy):
    """The most probable token at each step; the lower id where two are equal.

    Example:

    >>> import numpy as np
    >>> np.array(Greedy().select(np.log([[0.2, 0.5, 0.3]]))).tolist()
    [1]
    """

    def select(self, log_probabilities):
        return argmax(log_probabilities)


def argmax(x):
    """Index of the first largest element along the last axis, int32.

    Written with max, comparison and min, which every runtime has and which agree on ties: `ops.argmax` of floats
    has no builtin LiteRT op, and `ops.top_k` sorts (benchmarks/decoding_choices.py).
    """
    x = ops.convert_to_tensor(x)
    size = x.shape[-1]
    largest = ops.max(x, axis=-1, keepdims=True)
    indices = ops.where(x >= largest, ops.arange(size, dtype="int32"), size)
    return ops.minimum(ops.min(indices, axis=-1), size - 1)  # NaN compares with nothing
