"""Layer normalization with its gradient written out."""

import keras
from keras import ops


def layer_normalization(x, scale, offset, epsilon: float):
    """y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + offset, over the last axis.

    ("Layer Normalization", https://arxiv.org/abs/1607.06450.) Computed in float32 at least. The gradient is written
    out because that of `keras.layers.LayerNormalization`, derived automatically, makes more passes over
    memory (benchmarks/training_choices.py). First derivatives only.

    Args:
        x: (..., D), float.
        scale, offset: (D,), or None for none.
        epsilon: Added to the variance.

    Returns:
        Of the shape and dtype of `x`.

    Example:

    >>> import numpy as np
    >>> np.array(layer_normalization(np.array([[1.0, 3.0]]), np.ones(2), np.zeros(2), 0.0)).tolist()
    [[-1.0, 1.0]]
    """
    x = ops.convert_to_tensor(x)
    dtype = x.dtype
    scale = ops.ones((x.shape[-1],)) if scale is None else scale
    offset = ops.zeros((x.shape[-1],)) if offset is None else offset
    wide = keras.backend.result_type(dtype, "float32")
    return ops.cast(_normalize(epsilon)(ops.cast(x, wide), ops.cast(scale, wide), ops.cast(offset, wide)), dtype)


def _normalize(epsilon: float):
    @ops.custom_gradient
    def normalize(x, scale, offset):
        centered = x - ops.mean(x, axis=-1, keepdims=True)
        inverse = ops.rsqrt(ops.mean(ops.square(centered), axis=-1, keepdims=True) + epsilon)  # (..., 1)
        normal = centered * inverse

        def gradient(*args, upstream=None):
            if upstream is None:  # PyTorch's custom gradients pass it by name, the others by position
                (upstream,) = args
            product = upstream * normal
            scaled = upstream * scale
            along = ops.mean(product * scale, axis=-1, keepdims=True)
            to_x = (scaled - ops.mean(scaled, axis=-1, keepdims=True) - normal * along) * inverse
            others = list(range(len(upstream.shape) - 1))
            return to_x, ops.sum(product, axis=others), ops.sum(upstream, axis=others)

        return normal * scale + offset, gradient

    return normalize
