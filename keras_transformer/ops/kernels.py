"""Which way attention is computed: with all its scores, block by block, or by a kernel of the device."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from keras import ops

from keras_transformer._keras import is_trial
from keras_transformer.ops.blockwise import blockwise_attention
from keras_transformer.ops.exact import exact_attention
from keras_transformer.ops.visibility import Visibility

KERNELS = ("auto", "exact", "blockwise", "fused")
# From how many pairs of a query and a key on blocks are faster than all scores at once (benchmarks/attention.py).
PAIRS = 2048 * 2048

_KERNEL: ContextVar[str] = ContextVar("attention_kernel", default="auto")


@contextlib.contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Choose how attention is computed while this is active, in layers and in `dot_product_attention`.

    Args:
        name: "exact" holds the scores of all pairs; "blockwise" computes them block by block, in memory that grows with
            the lengths, not their product, and leaves out blocks that causality, a window or padding leave empty;
            "fused" is the device's own kernel; "auto" chooses, by what is asked and by the sizes.

    Raises:
        ValueError: If there is no such way; later, where it cannot compute what is asked.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> x = np.ones((1, 5, 2, 3), "float32")
    >>> with kt.ops.attention_kernel("blockwise"):
    ...     output = kt.ops.dot_product_attention(x, x, x, causal=True)
    >>> tuple(output.shape)
    (1, 5, 2, 3)
    """
    if name not in KERNELS:
        raise ValueError(f"attention_kernel takes one of {', '.join(map(repr, KERNELS))}, got {name!r}.")
    token = _KERNEL.set(name)
    try:
        yield
    finally:
        _KERNEL.reset(token)


@dataclasses.dataclass(frozen=True)
class PositionBias:
    """A bias that is a function of positions, not made before a kernel wants it.

    Args:
        function: Takes positions of queries and of keys, (1 or B, T) and (1 or B, S); returns (1 or B, H, T, S).
        of_distance: Whether it depends on the difference of the two only.
    """

    function: Callable[[Any, Any], Any]
    of_distance: bool

    def by_distance(self, length, keys):
        """(H, T + S - 1): for each distance from 1 - T to S - 1."""
        distances = ops.expand_dims(ops.arange(length + keys - 1, dtype="int32") - (length - 1), 0)
        return self.function(ops.zeros((1, 1), "int32"), distances)[0, :, 0]


def attend(
    query,
    key,
    value,
    seen: Visibility,
    *,
    bias=None,
    sinks=None,
    scale: float | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    seed=None,
    return_scores: bool = False,
):
    """Attention on heads-first tensors, by the way that `attention_kernel` says.

    Args:
        query: (B, H, T, K). key, value: (B, G, S, K).
        seen: What may be attended to.
        bias: A tensor, broadcastable to (B, H, T, S), or a `PositionBias`.
        sinks, scale, soft_cap, dropout, seed: As of `dot_product_attention`.
        return_scores: Whether the weights are wanted.

    Returns:
        (B, H, T, K), and the weights (B, H, T, S) if they are wanted, else None.

    Raises:
        ValueError: If H is not a multiple of G, or the way that was chosen cannot compute what is asked.
    """
    if query.shape[1] % key.shape[1]:
        raise ValueError(
            f"Attention takes a multiple of the {key.shape[1]} key/value heads as query heads, got {query.shape[1]}."
        )
    options = {"sinks": sinks, "scale": scale, "soft_cap": soft_cap, "dropout": dropout, "seed": seed}
    length, keys = ops.shape(query)[2], ops.shape(key)[2]

    def exact():
        dense = bias
        if isinstance(bias, PositionBias):
            dense = bias.function(*seen.positions(length, keys))
        return exact_attention(query, key, value, mask=seen.dense(length, keys), bias=dense, **options)

    def blockwise():
        biases = {"bias": bias}
        if isinstance(bias, PositionBias):
            if bias.of_distance:
                biases = {"distance_bias": bias.by_distance(length, keys)}
            else:
                biases = {"bias": bias.function(*seen.positions(length, keys))}
        return blockwise_attention(query, key, value, seen, **biases, **options)

    kernel = _choose(length, keys, seen, return_scores)
    if kernel == "blockwise":
        return blockwise(), None
    output, weights = exact()
    return output, weights if return_scores else None


def _choose(length, keys, seen: Visibility, return_scores: bool) -> str:
    wanted = _KERNEL.get()
    if not seen.counts_up:  # decoding: what a cache holds does not simply count up
        return "exact"
    obstacle = _obstacle(return_scores)
    if wanted == "fused":
        raise ValueError("attention_kernel('fused'): there is no fused kernel for this device.")
    if wanted == "blockwise" and obstacle:
        raise ValueError(f"attention_kernel('blockwise') cannot {obstacle}. Take 'auto' or 'exact'.")
    if wanted != "auto":
        return wanted
    known = isinstance(length, int) and isinstance(keys, int)
    if obstacle or not known or length * keys < PAIRS:
        return "exact"
    return "blockwise"


def _obstacle(return_scores: bool) -> str | None:
    """Why attention is not computed block by block, if so, as what it cannot do."""
    if return_scores:
        return "return the scores of all pairs (return_attention_scores, a recording)"
    if is_trial():
        return "run on tensors without values"
    return None
