"""Which way attention is computed: with all its scores, block by block, or by a kernel of the device."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from keras_transformer._keras import is_trial
from keras_transformer.ops.blockwise import blockwise_attention
from keras_transformer.ops.exact import exact_attention
from keras_transformer.ops.fused import fused_attention, fused_device, on_accelerator, why_not_fused
from keras_transformer.ops.runtime import is_for_converter
from keras_transformer.ops.visibility import Visibility

KERNELS = ("auto", "exact", "blockwise", "fused")
# From how many pairs of a query and a key on blocks are faster than all scores at once (benchmarks/attention.py), also
# under XLA and JAX; on a GPU or TPU, where short loops are slow, they are for what else would not fit. From how many
# scores, of all heads and rows, the device's own kernel is faster.
PAIRS = 1024 * 1024
PAIRS_ON_ACCELERATORS = 8192 * 8192
FUSED_SCORES = {"cudnn": 2**25, "splash": 2**25, "torch": 0}

logger = logging.getLogger("keras_transformer")
_SAID = set()
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
    length, keys = ops.shape(query)[2], ops.shape(key)[2]
    device = fused_device()
    why_not: dict[str, str | None] = {"exact": None, "blockwise": None, "fused": None}
    if return_scores:
        why_not["fused"] = why_not["blockwise"] = "the scores of all pairs are wanted"
    elif is_trial():
        why_not["fused"] = why_not["blockwise"] = "there are no values"
    else:
        why_not["fused"] = why_not_fused(device, query, key, value, seen, bias, sinks, soft_cap, dropout)
    kernel = "exact"
    if seen.counts_up and not is_for_converter():  # what a cache holds does not count up
        kernel = _chosen(why_not, query.shape, key.shape[2], device)
    options = {"sinks": sinks, "scale": scale, "soft_cap": soft_cap, "dropout": dropout, "seed": seed}

    def dense_bias():
        return bias.function(*seen.positions(length, keys)) if isinstance(bias, PositionBias) else bias

    def exact():
        return exact_attention(query, key, value, mask=seen.dense(length, keys), bias=dense_bias(), **options)

    def blockwise():
        if isinstance(bias, PositionBias) and bias.of_distance:
            biases = {"distance_bias": bias.by_distance(length, keys)}
        else:
            biases = {"bias": dense_bias()}
        return blockwise_attention(query, key, value, seen, **biases, **options)

    if kernel == "fused":
        return fused_attention(device, query, key, value, seen, bias=dense_bias(), scale=scale, soft_cap=soft_cap), None
    if kernel == "blockwise":
        return blockwise(), None
    output, weights = exact()
    return output, weights if return_scores else None


def _chosen(why_not: dict, shape, keys: int | None, device: str | None) -> str:
    """The kernel, by what is asked for and what hinders it.

    Args:
        why_not: What hinders each kernel, or None.
        shape: (B, H, T, K) of the queries; sizes may be unknown.
        keys: S.
        device: As of `fused_device`.
    """
    wanted = _KERNEL.get()
    if wanted != "auto":
        if why_not[wanted]:
            others = " or ".join(repr(name) for name in KERNELS if not why_not.get(name))
            raise ValueError(f"attention_kernel({wanted!r}) cannot be used: {why_not[wanted]}. Take {others}.")
        return wanted
    batch, heads, length, _ = shape
    if not isinstance(length, int) or not isinstance(keys, int):
        unknown = "lengths are not known before it runs"
        return "exact" if why_not["blockwise"] else _told("exact", "some", "some", unknown)
    batch = batch if isinstance(batch, int) else 1
    if keras.config.is_flash_attention_enabled() is False:  # None: nobody said anything
        why_not = {**why_not, "fused": "keras.config.disable_flash_attention() was called"}
    if device is not None and batch * heads * length * keys >= FUSED_SCORES[device]:
        if not why_not["fused"]:
            return _told("fused", length, keys)
        _told("not fused", length, keys, why_not["fused"])
    if length * keys >= _pairs() and not why_not["blockwise"]:
        return _told("blockwise", length, keys)
    return "exact"


def _pairs() -> int:
    """`PAIRS` of what runs here."""
    return PAIRS_ON_ACCELERATORS if on_accelerator() else PAIRS


def _told(kernel: str, length: int | str, keys: int | str, why: str = "") -> str:
    """Says once, at level INFO, which kernel was chosen, or missed and why."""
    said = kernel, length, keys, why
    if said not in _SAID:
        _SAID.add(said)
        logger.info("Attention of %s queries to %s keys: %s%s", length, keys, kernel, why and f", since {why}")
    return kernel
