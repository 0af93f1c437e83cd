"""Attention that holds all its scores: for few of them, for whoever wants to see them, and for decoding."""

import keras
from keras import ops

from keras_transformer.ops.random import dropout as drop

# Added to a forbidden score. Finite, so that a fully masked row stays finite; large, so that exp() of it is zero
# however large the other scores are.
FORBIDDEN = -1e30
LARGEST_FLOAT16 = 65504.0


def exact_attention(
    query, key, value, *, mask=None, bias=None, sinks=None, scale=None, soft_cap=None, dropout=0.0, seed=None
):
    """`dot_product_attention` on heads-first tensors, the layout that the matrix products take without a copy.

    Takes query (B, H, T, K), key and value (B, G, S, K); returns (B, H, T, K) and the weights (B, H, T, S).
    """
    heads, head_dim = query.shape[1], query.shape[3]
    groups = key.shape[1]
    if heads % groups:
        raise ValueError(f"Attention takes a multiple of the {groups} key/value heads as query heads, got {heads}.")
    length = ops.shape(query)[2]
    query = query * ops.cast(head_dim**-0.5 if scale is None else scale, query.dtype)
    if groups != heads:  # the query heads of a group become further queries to the same keys
        query = ops.reshape(query, (-1, groups, heads // groups * length, head_dim))
    scores = ops.matmul(query, ops.swapaxes(key, 2, 3))
    if groups != heads:
        scores = ops.reshape(scores, (-1, heads, length, ops.shape(key)[2]))  # (B, H, T, S)

    if keras.backend.standardize_dtype(scores.dtype) == "float16":  # a product too large for the type is inf
        scores = ops.clip(scores, -LARGEST_FLOAT16, LARGEST_FLOAT16)
    scores = ops.cast(scores, "float32")
    if soft_cap is not None:
        scores = soft_cap * ops.tanh(scores / soft_cap)
    if bias is not None:
        scores = scores + ops.cast(bias, "float32")
    weights = masked_softmax(scores, mask) if sinks is None else _with_sinks(scores, mask, sinks)
    weights = ops.cast(weights, value.dtype)

    dropped = weights
    if dropout:
        dropped = drop(weights, dropout, seed)
    if groups != heads:
        dropped = ops.reshape(dropped, (-1, groups, heads // groups * length, ops.shape(key)[2]))
    output = ops.matmul(dropped, value)
    if groups != heads:
        output = ops.reshape(output, (-1, heads, length, value.shape[3]))  # (B, H, T, K)
    return output, weights


def masked_softmax(scores, mask):
    """The softmax of float32 scores (..., S) where `mask` allows, and zeros for a row without a single allowed key."""
    if mask is None:
        return softmax(scores)
    weights = softmax(scores + (1.0 - ops.cast(mask, "float32")) * FORBIDDEN)
    return weights * ops.cast(ops.any(mask, axis=-1, keepdims=True), "float32")


def _with_sinks(scores, mask, sinks):
    """The same with one further score a head, `sinks` (H,), that takes part and has no value."""
    sinks = ops.reshape(ops.cast(sinks, "float32"), (1, -1, 1, 1))
    if mask is not None:
        scores = scores + (1.0 - ops.cast(mask, "float32")) * FORBIDDEN
    largest = ops.maximum(ops.max(scores, axis=-1, keepdims=True), sinks)
    weights = ops.exp(scores - largest)
    return weights / (ops.sum(weights, axis=-1, keepdims=True) + ops.exp(sinks - largest))


def softmax(scores):
    """The softmax over the last axis, also of one score, of which Keras warns: its weight is 1, or NaN as the score."""
    return ops.exp(scores - scores) if scores.shape[-1] == 1 else ops.softmax(scores)
