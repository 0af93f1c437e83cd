"""A dense layer on each position by itself, as one product of two matrices."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_transformer")
class Projection(keras.layers.Dense):
    """y = activation(x W + b) at each position.

    It is `keras.layers.Dense`, but (B, T, D) goes in as a matrix (B T, D): TensorFlow then fuses product, bias and
    activation, which it does not through the tensordot that Keras makes of a product of rank 3 and rank 2.

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

    def call(self, inputs, training=None):
        rows = super().call(ops.reshape(inputs, (-1, inputs.shape[-1])), training=training)
        return ops.reshape(rows, (-1, ops.shape(inputs)[1], self.units))  # (B, T, units)
