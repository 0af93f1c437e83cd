"""The normalizations, and how a layer that normalizes is told which one it makes, wherever it makes one."""

import keras
from keras import ops

from keras_transformer.layers.checks import describe, floats
from keras_transformer.layers.composite import Composite
from keras_transformer.layers.prototype import Prototype
from keras_transformer.layers.quantized import Small
from keras_transformer.ops.normalization import layer_normalization


@keras.saving.register_keras_serializable("keras_transformer")
class LayerNormalization(Small, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis, with a gradient that costs less.

    y = (x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta ("Layer Normalization",
    https://arxiv.org/abs/1607.06450), in float32 at least.

    Args:
        axis: The last one, as -1 or by its number.
        kwargs: Of `keras.layers.LayerNormalization`: `epsilon`, 1e-3 by default; `center=False` for no beta,
            `scale=False` for no gamma; `gamma_initializer`, ...

    Input and output shape: (..., D), float. The padding mask passes through.

    Raises:
        ValueError: On another axis than the last one, or `rms_scaling`.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> np.array(kt.LayerNormalization(epsilon=0.0, center=False)(np.array([[1.0, 3.0]]))).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(self, axis: int = -1, **kwargs):
        super().__init__(axis=axis, **kwargs)
        if self.rms_scaling:
            raise ValueError(f"{describe(self)} has no rms_scaling. Use kt.RMSNormalization().")

    def build(self, inputs_shape):
        axes = self.axis if isinstance(self.axis, list | tuple) else [self.axis]
        if [axis % len(inputs_shape) for axis in axes] != [len(inputs_shape) - 1]:
            raise ValueError(
                f"{describe(self)} normalizes over the last axis, got axis={self.axis} for inputs of shape "
                f"{tuple(inputs_shape)}. Use keras.layers.LayerNormalization for others."
            )
        super().build(inputs_shape)

    def call(self, inputs):
        normal = layer_normalization(floats(self, inputs), self.gamma, self.beta, self.epsilon)
        return ops.cast(normal, self.compute_dtype)  # Keras casts no inputs of this layer


@keras.saving.register_keras_serializable("keras_transformer")
class RMSNormalization(Small, keras.layers.RMSNormalization):
    """Root mean square normalization that keeps the padding mask, which Keras' own destroys (Keras 3.15.1).

    y = x / sqrt(mean(x^2) + epsilon) * (offset + scale), the mean over the last axis
    ("Root Mean Square Layer Normalization", https://arxiv.org/abs/1910.07467), in float32 at least.

    Args:
        offset: Added to the scale, which starts at 1 - offset. With 1.0, as Gemma has it, decay and regularization pull
            the factor to one rather than to zero.
        kwargs: Of `keras.layers.RMSNormalization`: `axis`, `epsilon`.

    Input and output shape: (..., D), float. The padding mask passes through.

    Raises:
        ValueError: If `offset` is not a number.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> np.asarray(kt.RMSNormalization(epsilon=0.0)(np.array([[3.0, 4.0]])), "float64").round(3).tolist()  # rms 3.536
    [[0.849, 1.131]]
    """

    def __init__(self, *, offset: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        if isinstance(offset, bool) or not isinstance(offset, int | float):
            raise ValueError(f"{describe(self)} takes a number as offset, got {offset!r}.")
        self.offset = offset
        self.supports_masking = True

    def add_weight(self, *args, **kwargs):
        # Keras' own would begin at one, and would be rounded to half precision before it is added to the offset.
        initializer = keras.initializers.Constant(1.0 - self.offset)
        return super().add_weight(*args, **{**kwargs, "initializer": initializer, "autocast": False})

    def call(self, inputs):
        scale = ops.cast(self.scale, keras.backend.result_type(self.scale.dtype, "float32"))
        scale = scale + self.offset if self.offset else scale
        return ops.rms_normalization(floats(self, inputs), scale, self.axis, self.epsilon)

    def get_config(self):
        return {**super().get_config(), "offset": self.offset}


NORMALIZATIONS = {
    "layer": LayerNormalization,  # "Layer Normalization", https://arxiv.org/abs/1607.06450
    "rms": RMSNormalization,
}


def check_norm(owner, norm, **epsilon) -> "str | Prototype":
    """The name of a normalization, or the layer that was given as one, to be copied.

    Args:
        owner: The layer that was given it.
        norm: A name, a layer, or the configuration of one.
        epsilon: What `owner` calls its epsilon, if that was given, too.

    Raises:
        ValueError: If it is neither, or is a layer and its epsilon is told twice.
    """
    norm = Prototype.of(norm)
    if not isinstance(norm, Prototype):
        if norm not in NORMALIZATIONS:
            raise ValueError(
                f"{describe(owner)} takes one of {sorted(NORMALIZATIONS)} as norm, or a layer such as "
                f"RMSNormalization(offset=1.0), got {norm!r}."
            )
    elif epsilon:
        ((name, value),) = epsilon.items()
        raise ValueError(
            f"{describe(owner)} takes {name} or a layer as norm, which has its own, got both: {name}={value} and "
            f"{norm}."
        )
    return norm


def make_norm(owner: Composite, name: str, norm: "str | Prototype", epsilon: float) -> keras.layers.Layer:
    """A part of `owner` of that name that normalizes over the last axis."""
    if isinstance(norm, Prototype):
        return owner.make_like(norm, name)
    return owner.make(NORMALIZATIONS[norm], name, axis=-1, epsilon=epsilon)


def normalization(norm: str | keras.layers.Layer, *, epsilon: float, name: str) -> keras.layers.Layer:
    """A normalization over the last axis for a model: "layer" or "rms", or a copy of a layer."""
    norm = Prototype.of(norm)
    if isinstance(norm, Prototype):
        return norm.copy(name=name)
    return NORMALIZATIONS[norm](axis=-1, epsilon=epsilon, name=name)
