"""Sampling: the next token drawn from the model's distribution, or from the likely part of it."""

from dataclasses import dataclass, replace

import numpy as np
from keras import ops

from keras_transformer.decoding.settings import is_integer, is_number, read_counts
from keras_transformer.decoding.strategies import TokenByToken, forbid
from keras_transformer.ops.random import as_seed, uniforms

WIDTH = 128  # tokens in a block of the two-level search
NEXT = np.uint32(0x9E3779B9).astype("int32")  # from the seed of one sequence of a row to that of the next


@dataclass(frozen=True)
class Sampling(TokenByToken):
    """Draws each token from the distribution that `temperature` and the filters leave.

    p'(v) = p(v)^(1 / temperature) / Z over the tokens that are kept; filters apply one after the other, each to the
    distribution that the one before it left. Tokens as probable as the last one kept are kept, too.

    The random numbers are a hash of (seed, row, position): the same seed gives the same tokens on every backend, in
    a SavedModel and in LiteRT (up to rounding, where a number falls within 1e-7 of the border of two tokens). A call
    of the generator may bring a seed of its own.

    Args:
        temperature: Above 1 flatter, below 1 sharper.
        top_k: Keep the k most probable tokens ("Hierarchical Neural Story Generation", section 5.4).
        top_p: Keep the fewest tokens whose probability is at least p in sum ("The Curious Case of Neural Text
            Degeneration", section 3.1).
        min_p: Keep tokens at least min_p times as probable as the most probable one
            (https://arxiv.org/abs/2407.01082).
        seed: Of the random numbers, any integer. None: each call draws one, by Python's `random`, which
            `keras.utils.set_random_seed` sets.
        num_return: How many sequences to draw for each row, independently of each other. The first is the one that
            is drawn alone.

    Raises:
        ValueError: If `temperature` is not positive, `top_k` or `num_return` is not a positive integer, `top_p` or
            `min_p` is not in (0, 1], or `seed` is no integer.

    Example:

    >>> import numpy as np
    >>> strategy = Sampling(top_k=2, seed=1)
    >>> rows = np.log(np.tile([[0.1, 0.4, 0.2, 0.3]], (1000, 1)).astype("float32"))
    >>> drawn = np.array(strategy.select(rows, np.ones(1000, "int32")))
    >>> sorted(set(drawn.tolist())), bool(abs((drawn == 1).mean() - 4 / 7) < 0.05)
    ([1, 3], True)
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = 0
    num_return: int = 1

    def __post_init__(self):
        if not (is_number(self.temperature) and 0 < self.temperature < float("inf")):
            raise ValueError(
                f"Sampling takes a positive, finite temperature, got {self.temperature!r}. For the most probable "
                "token, use Greedy()."
            )
        if self.top_k is not None and not (is_integer(self.top_k) and self.top_k > 0):
            raise ValueError(f"Sampling takes a positive integer as top_k, or None, got {self.top_k!r}.")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 < value <= 1):
                raise ValueError(f"Sampling takes a {name} in (0, 1], or None, got {value!r}.")
        read_counts(self, "num_return")
        if self.seed is not None and not ops.is_tensor(self.seed):
            as_seed(self.seed)

    is_random = True

    def with_seed(self, seed):
        return replace(self, seed=seed)

    def select(self, log_probabilities, positions):
        return draw(self.weights(log_probabilities), self.uniforms(positions))

    def uniforms(self, positions, stream: int = 0):
        """Random numbers in [0, 1), (B N,), for sequences at `positions` (B N,), float32; others in each stream."""
        seed = ops.cast(as_seed(self.seed), "int32")
        rows = ops.arange(ops.shape(positions)[0], dtype="int32")
        if self.num_return > 1:
            seed = seed + ops.mod(rows, self.num_return) * NEXT
            rows = rows // self.num_return
        return uniforms(ops.bitwise_xor(seed, stream) if stream else seed, rows, positions)

    def weights(self, log_probabilities):
        """The distribution that tokens are drawn from, (..., V), up to a factor of each row."""
        scores = log_probabilities / self.temperature
        size = scores.shape[-1]
        if self.top_k is not None and self.top_k < size:
            scores = forbid(scores, scores < ops.top_k(scores, int(self.top_k))[0][..., -1:])
        weights = ops.softmax(scores)
        if self.top_p is not None and self.top_p < 1:
            weights = ops.where(weights >= nucleus_threshold(weights, self.top_p), weights, 0.0)
        if self.min_p is not None:
            weights = ops.where(weights >= self.min_p * ops.max(weights, axis=-1, keepdims=True), weights, 0.0)
        return weights


def nucleus_threshold(weights, top_p: float):
    """The largest t, (..., 1), for which the probabilities of at least t make up `top_p`.

    By bisection, to 2^-30 of the largest probability: under XLA thirty sums take a tenth of the time or less of
    sorting 32,000 tokens (benchmarks/decoding_choices.py).
    """
    high = ops.max(weights, axis=-1, keepdims=True) * (1 + 1e-6)  # above all of them: makes up nothing

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = ops.sum(ops.where(weights >= middle, weights, 0.0), axis=-1, keepdims=True) >= top_p
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    low, _ = ops.fori_loop(0, 30, halve, (ops.zeros_like(high), high))
    return low


def draw(weights, uniform):
    """The token at which the sum of `weights` (B, V) passes `uniform` (B,) of the total, (B,) int32.

    In two levels, first a block of tokens, then a token of the block: with a cumulative sum over a vocabulary of
    32,000 a draw takes 1.4 to 2.3 times as long (benchmarks/decoding_choices.py).
    """
    size = weights.shape[-1]
    blocks = -(-size // WIDTH)
    weights = ops.reshape(ops.pad(weights, [[0, 0], [0, blocks * WIDTH - size]]), (-1, blocks, WIDTH))
    sums = ops.sum(weights, axis=-1)  # (B, blocks)
    target = ops.expand_dims(uniform, 1) * ops.sum(sums, axis=-1, keepdims=True)  # (B, 1)
    block, rest = _locate(sums, target)
    inside = ops.take_along_axis(weights, ops.reshape(block, (-1, 1, 1)), axis=1)[:, 0]  # (B, WIDTH)
    token, _ = _locate(inside, ops.maximum(rest, 0.0))  # rounding may put it below
    return block * WIDTH + token


def _locate(weights, target):
    """Where the cumulative sum of `weights` (B, M) passes `target` (B, 1), (B,), and how far `target` lies in there."""
    cumulative = ops.cumsum(weights, axis=-1)
    places = ops.arange(weights.shape[-1], dtype="int32")
    last = ops.max(ops.where(weights > 0, places, 0), axis=-1)  # where rounding carries the target past the end
    index = ops.minimum(ops.sum(ops.cast(cumulative <= target, "int32"), axis=-1), last)
    before = ops.sum(ops.where(places < ops.expand_dims(index, 1), weights, 0.0), axis=-1, keepdims=True)
    return index, target - before
