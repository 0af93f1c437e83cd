"""Dropout with random numbers from a hash."""

import keras

from keras_transformer.layers.checks import check_seed
from keras_transformer.layers.quantized import Small
from keras_transformer.ops.random import dropout


@keras.saving.register_keras_serializable("keras_transformer")
class Dropout(Small, keras.layers.Dropout):
    """`keras.layers.Dropout` with the generator of `ops.random`: cheaper on the CPU, the same bits everywhere.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.dropout import Dropout
    >>> np.array(Dropout(0.5)(np.ones((1, 3)))).tolist()  # drops in training only
    [[1.0, 1.0, 1.0]]
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(rate=rate, **kwargs)

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        check_seed(self, self.rate)
        return dropout(inputs, self.rate, self.seed_generator)
