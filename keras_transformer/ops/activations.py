"""Activations with their gradients written out, from the input alone: nothing else is kept for them."""

from collections.abc import Callable

import keras
from keras import ops


def trained(activation: Callable) -> Callable:
    """What computes the same as `activation` and costs less in training; itself, where there is no such thing.

    The automatic gradient of the exact GELU keeps two more tensors as large as its input on JAX, and passes over them
    (benchmarks/gelu.py); PyTorch has a kernel of its own. First derivatives only.

    Example:

    >>> import keras
    >>> trained(keras.activations.relu) is keras.activations.relu
    True
    """
    known = keras.backend.backend() != "torch" and activation is keras.activations.gelu
    return gelu if known else activation


def gelu(x):
    """x P(X <= x) for a standard normal X ("Gaussian Error Linear Units", https://arxiv.org/abs/1606.08415).

    Args:
        x: Float, of any shape.

    Returns:
        Of the shape and dtype of `x`. The gradient is computed in float32 at least.

    Example:

    >>> import numpy as np
    >>> np.asarray(gelu(np.array([-1.0, 0.0, 1.0])), "float64").round(3).tolist()
    [-0.159, 0.0, 0.841]
    """
    return _gelu(ops.convert_to_tensor(x))


@ops.custom_gradient
def _gelu(x):
    def gradient(*args, upstream=None):
        if upstream is None:  # PyTorch's custom gradients pass it by name, the others by position
            (upstream,) = args
        wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        density = ops.exp(-0.5 * ops.square(wide)) * 0.3989422804014327  # 1 / sqrt(2 pi)
        # Not written as the forward pass does, or a compiler would compute it there and keep it.
        distribution = 0.5 * (1.0 + ops.erf(wide * 0.7071067811865476))  # 1 / sqrt(2)
        return upstream * ops.cast(distribution + wide * density, x.dtype)

    return ops.gelu(x, approximate=False), gradient
