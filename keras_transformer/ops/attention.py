"""Attention as pure functions: scaled dot-product, for any mask, bias and head grouping, and additive."""

import keras
from keras import ops

from keras_transformer.ops.masks import boolean, checked
from keras_transformer.ops.random import dropout as drop

# Added to a forbidden score. Finite, so that a fully masked row stays finite; large, so that exp() of it is zero
# however large the other scores are.
FORBIDDEN = -1e30
LARGEST_FLOAT16 = 65504.0


def dot_product_attention(
    query,
    key,
    value,
    mask=None,
    bias=None,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    seed=None,
    return_scores: bool = False,
):
    """Attention(Q, K, V) = softmax(Q K^T scale + bias) V ("Attention Is All You Need", equation 1).

    The softmax is taken in float32 whatever the inputs are. A query that may attend to nothing gets zeros, so
    that what lies under padding never shows.

    Args:
        query: (B, T, H, K), float.
        key, value: (B, S, G, K), float. G key/value heads, each shared by H / G query heads (grouped-query
            attention, https://arxiv.org/abs/2305.13245; G = 1 is multi-query).
        mask: Bool, or 0 and 1 of any type, broadcastable to (B, H, T, S). True = may attend.
        bias: Float, broadcastable to (B, H, T, S), added to the scaled scores.
        scale: Factor on the scores. Default: 1 / sqrt(K).
        soft_cap: Bound c on the scores, as c tanh(score / c) ("Gemma 2", section 2).
        dropout: Rate at which attention weights are dropped.
        seed: Integer or `keras.random.SeedGenerator` for the dropout.
        return_scores: Whether to return the attention weights, too.

    Returns:
        (B, T, H, K) of the dtype of `value`; with `return_scores` also the weights, (B, H, T, S).

    Raises:
        ValueError: If an input is not of rank 4, H is not a multiple of G, or the mask holds other values than 0 and 1,
            as additive masks do. Within compiled functions, where it is not known, such a mask gives NaN.

    Example:

    >>> import numpy as np
    >>> query, key, value = np.zeros((1, 1, 1, 2)), np.ones((1, 3, 1, 2)), np.eye(3, 2)[None, :, None]
    >>> output = dot_product_attention(query, key, value)  # equal scores: the mean of the values
    >>> np.asarray(output, "float64").round(3).tolist()
    [[[[0.333, 0.333]]]]
    """
    for name, x in (("query", query), ("key", key), ("value", value)):
        if len(x.shape) != 4:
            raise ValueError(
                f"dot_product_attention takes {name} of shape (batch, length, heads, width), got {x.shape}."
            )
    query, key, value = (ops.swapaxes(ops.convert_to_tensor(x), 1, 2) for x in (query, key, value))
    output, weights = attend(
        checked(query, mask),
        key,
        value,
        mask=boolean("dot_product_attention", mask),
        bias=bias,
        scale=scale,
        soft_cap=soft_cap,
        dropout=dropout,
        seed=seed,
    )
    output = ops.swapaxes(output, 1, 2)
    return (output, weights) if return_scores else output


def attend(query, key, value, *, mask=None, bias=None, scale=None, soft_cap=None, dropout=0.0, seed=None):
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
    weights = ops.cast(_softmax(scores, mask), value.dtype)

    dropped = weights
    if dropout:
        dropped = drop(weights, dropout, seed)
    if groups != heads:
        dropped = ops.reshape(dropped, (-1, groups, heads // groups * length, ops.shape(key)[2]))
    output = ops.matmul(dropped, value)
    if groups != heads:
        output = ops.reshape(output, (-1, heads, length, value.shape[3]))  # (B, H, T, K)
    return output, weights


def additive_attention(query, key, value, vector, mask=None):
    """Additive attention ("Neural Machine Translation by Jointly Learning to Align and Translate",
    https://arxiv.org/abs/1409.0473, section 3.1).

    c_t = sum over j of a_tj value_j, a_t = softmax over j of vector . tanh(query_t + key_j). As everywhere, the softmax
    is taken in float32, and a query that may attend to nothing gets zeros.

    Args:
        query: (B, T, A), float. Projected queries.
        key: (B, S, A), float. Projected keys, the bias included.
        value: (B, S, M), float.
        vector: (A, 1), float.
        mask: (B, S), bool, or 0 and 1 of any type. True = may attend.

    Returns:
        (B, T, M), and the weights (B, T, S), of the dtype of `value`.

    Raises:
        ValueError: If the mask holds other values than 0 and 1. Within compiled functions such a mask gives NaN.

    Example:

    >>> import numpy as np
    >>> key, value, vector = np.array([[[-9.0], [0.0], [9.0]]]), np.eye(3)[None], np.array([[9.0]])
    >>> output, weights = additive_attention(np.zeros((1, 1, 1)), key, value, vector)  # tanh is -1, 0 and 1
    >>> np.asarray(output, "float64").round(3).tolist()
    [[[0.0, 0.0, 1.0]]]
    """
    query, key, value, vector = (ops.convert_to_tensor(x) for x in (query, key, value, vector))
    query, mask = checked(query, mask), boolean("additive_attention", mask)
    compared = ops.tanh(ops.expand_dims(query, 2) + ops.expand_dims(key, 1))  # (B, T, S, A)
    scores = ops.cast(ops.squeeze(ops.matmul(compared, vector), -1), "float32")
    weights = ops.cast(_softmax(scores, None if mask is None else ops.expand_dims(mask, 1)), value.dtype)
    return ops.matmul(weights, value), weights


def _softmax(scores, mask):
    """The softmax of float32 scores (..., S) where `mask` allows, and zeros for a row without a single allowed key."""
    if mask is None:
        return softmax(scores)
    weights = softmax(scores + (1.0 - ops.cast(mask, "float32")) * FORBIDDEN)
    return weights * ops.cast(ops.any(mask, axis=-1, keepdims=True), "float32")


def softmax(scores):
    """The softmax over the last axis, also of one score, of which Keras warns: its weight is 1, or NaN as the score."""
    return ops.exp(scores - scores) if scores.shape[-1] == 1 else ops.softmax(scores)
