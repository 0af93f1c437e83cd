"""A bias that is no weight."""

import keras
from keras import ops

from keras_transformer.layers.quantized import Small
from keras_transformer.layers.shaped import Shaped


@keras.saving.register_keras_serializable("keras_transformer")
class FixedBias(Shaped, Small):
    """y = x + b along the last axis, with a vector b that no training changes, as BART and Marian add to their logits.

    It starts at zero, and is there for a checkpoint to fill.

    Input and output shape: (..., D), float. The padding mask passes through. Variable: `bias` (D,).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.fixed_bias import FixedBias
    >>> layer = FixedBias()
    >>> np.array(layer(np.ones((1, 1, 2)))).tolist(), len(layer.trainable_weights)
    ([[[1.0, 1.0]]], 0)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, inputs_shape):
        self.bias = self.add_weight(name="bias", shape=(inputs_shape[-1],), initializer="zeros", trainable=False)

    def call(self, inputs):
        return inputs + ops.cast(self.bias, inputs.dtype)

    def get_config(self):
        return super().get_config()  # Keras' own default takes no dtype policy
