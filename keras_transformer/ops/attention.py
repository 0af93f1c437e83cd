"""Attention as pure functions: scaled dot-product, for any mask, bias and head grouping, and additive."""

from keras import ops

from keras_transformer.ops.exact import masked_softmax
from keras_transformer.ops.kernels import attend
from keras_transformer.ops.masks import boolean, checked
from keras_transformer.ops.visibility import Visibility


def dot_product_attention(
    query,
    key,
    value,
    mask=None,
    bias=None,
    *,
    causal: bool = False,
    window: int | None = None,
    key_mask=None,
    query_segments=None,
    key_segments=None,
    sinks=None,
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
        causal: Whether query t may attend to the keys 0 to t only.
        window: How many positions a query sees, its own included, to each side that `causal` leaves open.
        key_mask: (B, S), bool, or 0 and 1. False for padding.
        query_segments, key_segments: (B, T) and (B, S), int. Packed sequences attend within their segment only.
        sinks: (H,), float. A score of each head that takes part in the softmax and has no value (gpt-oss; "Efficient
            Streaming Language Models with Attention Sinks", https://arxiv.org/abs/2309.17453).
        scale: Factor on the scores. Default: 1 / sqrt(K).
        soft_cap: Bound c on the scores, as c tanh(score / c) ("Gemma 2", section 2).
        dropout: Rate at which attention weights are dropped.
        seed: Integer or `keras.random.SeedGenerator` for the dropout.
        return_scores: Whether to return the attention weights, too.

    Returns:
        (B, T, H, K) of the dtype of `value`; with `return_scores` also the weights, (B, H, T, S).

    Raises:
        ValueError: If an input is not of rank 4, H is not a multiple of G, the window is not positive, or a mask holds
            other values than 0 and 1, as additive masks do. Within compiled functions, where it is not known, such a
            mask gives NaN.

    What is handed over as `causal`, `window`, `key_mask` or segments, rather than as a `mask`, costs no matrix of its
    own, and no work where it leaves nothing to see. Which way is taken for it says `kt.ops.attention_kernel`.

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
    if window is not None and window < 1:
        raise ValueError(f"dot_product_attention takes a positive window, or None, got {window}.")
    query, key, value = (ops.swapaxes(ops.convert_to_tensor(x), 1, 2) for x in (query, key, value))
    query = checked(query, mask, key_mask)
    mask, key_mask = (boolean("dot_product_attention", x, n) for x, n in ((mask, "mask"), (key_mask, "key_mask")))
    if mask is not None:
        mask = ops.reshape(mask, (1,) * (4 - len(mask.shape)) + tuple(ops.shape(mask)))
    if bias is not None:
        bias = ops.convert_to_tensor(bias)
        bias = ops.reshape(bias, (1,) * (4 - len(bias.shape)) + tuple(ops.shape(bias)))
    output, weights = attend(
        query,
        key,
        value,
        Visibility(causal, window, key_mask, query_segments, key_segments, mask),
        bias=bias,
        sinks=sinks,
        scale=scale,
        soft_cap=soft_cap,
        dropout=dropout,
        seed=seed,
        return_scores=return_scores,
    )
    output = ops.swapaxes(output, 1, 2)
    return (output, weights) if return_scores else output


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
    weights = ops.cast(masked_softmax(scores, None if mask is None else ops.expand_dims(mask, 1)), value.dtype)
    return ops.matmul(weights, value), weights
