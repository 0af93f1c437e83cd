"""Kinds of GELU: the exact one with its gradient written out, and two that Keras has no name for."""

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


@keras.saving.register_keras_serializable("keras_transformer")
def quick_gelu(x):
    """x sigmoid(1.702 x) ("Gaussian Error Linear Units", https://arxiv.org/abs/1606.08415, section 2), as CLIP has it.

    Layers of this package take it by its name, too, and save it: `FeedForward(32, activation="quick_gelu")`.

    Args:
        x: Float, of any shape.

    Returns:
        Of the shape and dtype of `x`.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> np.asarray(kt.ops.quick_gelu(np.array([-1.0, 0.0, 1.0])), "float64").round(3).tolist()
    [-0.154, 0.0, 0.846]
    """
    x = ops.convert_to_tensor(x)
    return x * ops.sigmoid(1.702 * x)


@keras.saving.register_keras_serializable("keras_transformer")
def tanh_gelu(x):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, near the exact GELU ("Gaussian Error Linear Units",
    https://arxiv.org/abs/1606.08415, section 2): what others call "gelu_new" or "gelu_pytorch_tanh".

    Layers of this package take it by its name, too, and save it: `FeedForward(32, activation="tanh_gelu")`.

    Args:
        x: Float, of any shape.

    Returns:
        Of the shape and dtype of `x`.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> np.asarray(kt.ops.tanh_gelu(np.array([-2.0, 0.0, 2.0])), "float64").round(4).tolist()
    [-0.0454, 0.0, 1.9546]
    """
    return ops.gelu(x, approximate=True)
