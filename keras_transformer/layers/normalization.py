"""The choice of a normalization by name, for every layer that normalizes."""

import keras

from keras_transformer.layers.quantized import Small
from keras_transformer.ops.normalization import layer_normalization


@keras.saving.register_keras_serializable("keras_transformer")
class LayerNormalization(Small, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis, with a gradient that costs less.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.normalization import LayerNormalization
    >>> np.array(LayerNormalization(epsilon=0.0)(np.array([[1.0, 3.0]]))).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(self, axis: int = -1, **kwargs):
        super().__init__(axis=axis, **kwargs)

    def call(self, inputs):
        return layer_normalization(inputs, self.gamma, self.beta, self.epsilon)


@keras.saving.register_keras_serializable("keras_transformer")
class RMSNormalization(Small, keras.layers.RMSNormalization):
    """Root mean square normalization that keeps the padding mask, which Keras' own destroys (Keras 3.15.1).

    y = x / sqrt(mean(x^2) + epsilon) * scale, the mean over the last axis
    ("Root Mean Square Layer Normalization", https://arxiv.org/abs/1910.07467).

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> np.asarray(kt.RMSNormalization(epsilon=0.0)(np.array([[3.0, 4.0]])), "float64").round(3).tolist()  # rms 3.536
    [[0.849, 1.131]]
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True


NORMALIZATIONS = {
    "layer": LayerNormalization,  # "Layer Normalization", https://arxiv.org/abs/1607.06450
    "rms": RMSNormalization,
}


def normalization(kind: str, *, epsilon: float, **kwargs) -> keras.layers.Layer:
    """A normalization over the last axis, "layer" or "rms"."""
    return NORMALIZATIONS[kind](axis=-1, epsilon=epsilon, **kwargs)
