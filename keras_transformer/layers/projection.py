"""A dense layer on each position by itself, as one product of two matrices; and layers that are made of some."""

from typing import Any, TypedDict

import keras
from keras import ops

from keras_transformer.layers.composite import Composite
from keras_transformer.layers.quantized import Adaptable


@keras.saving.register_keras_serializable("keras_transformer")
class Projection(Adaptable, keras.layers.Dense):
    """y = activation(x W + b) at each position.

    It is `keras.layers.Dense`, but (B, T, D) goes in as a matrix (B T, D): TensorFlow then fuses product, bias and
    activation, which it does not through the tensordot that Keras makes of a product of rank 3 and rank 2. With LoRA,
    y = activation(x W + (alpha / rank) (x A) B + b): neither A B is made nor the gradient of W, a third of the products
    of a training step.

    Args:
        units: Width of the output.
        kwargs: As of `keras.layers.Dense`.

    Input shape: (B, T, D). Output shape: (B, T, units).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.projection import Projection
    >>> tuple(Projection(5)(np.ones((2, 3, 4))).shape)
    (2, 3, 5)
    """

    adapted = "kernel"

    def __init__(self, units: int, **kwargs):
        super().__init__(units=units, **kwargs)

    def call(self, inputs, training=None):
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        if self.lora_enabled and self.quantization_mode is None:
            scale = self.lora_alpha / self.lora_rank
            change = scale * ops.matmul(ops.matmul(rows, self.lora_kernel_a), self.lora_kernel_b)
            rows = ops.matmul(rows, self._kernel) + change
            rows = rows if self.bias is None else rows + self.bias
            rows = rows if self.activation is None else self.activation(rows)
        else:
            rows = super().call(rows, training=training)
        return ops.reshape(rows, (-1, ops.shape(inputs)[1], self.units))  # (B, T, units)


class WeightOptions(TypedDict, total=False):
    """The options of projections that layers hand on to them under the same names, and those that Keras has for any
    layer."""

    name: str | None
    dtype: Any
    trainable: bool
    kernel_initializer: Any
    bias_initializer: Any
    kernel_regularizer: Any
    bias_regularizer: Any
    kernel_constraint: Any
    bias_constraint: Any


class Projecting(Composite):
    """The base of layers whose weights lie in projections: what these are told, with Keras' names and defaults."""

    def __init__(
        self,
        *,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    @property
    def weight_options(self) -> WeightOptions:
        """The options for one part; an initializer with a seed of its own is copied, as it gives each value once."""
        return {
            "kernel_initializer": _copy(self.kernel_initializer),
            "bias_initializer": _copy(self.bias_initializer),
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "kernel_constraint": self.kernel_constraint,
            "bias_constraint": self.bias_constraint,
        }

    def project(self, units: int, name: str, width: int, **options) -> Projection:
        """A projection of inputs of that width, built."""
        layer = self.make(Projection, name, units=units, **{**self.weight_options, **options})
        layer.build((None, None, width))
        return layer

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


def _copy(initializer):
    """A copy that draws on its own, where Keras' initializers would warn that one draws the same again."""
    return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer
