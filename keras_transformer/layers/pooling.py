"""Pooling over the real tokens of a sequence."""

import keras
from keras import ops

from keras_transformer.layers.checks import check_choice, check_sequence, floats
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.masks import checked

MODES = ("mean", "max")


@keras.saving.register_keras_serializable("keras_transformer")
class MaskedPooling(SequenceLayer, Small):
    """One vector for a sequence: the mean or the maximum over its real tokens.

    mean: y = sum over t of m_t x_t / max(1, sum over t of m_t), m_t = 1 for a token and 0 for padding; max:
    y = max over t with m_t = 1 of x_t. A sequence without a token gives zeros, where
    `keras.layers.GlobalAveragePooling1D` gives NaN; `keras.layers.GlobalMaxPooling1D` ignores the mask. The sum is
    taken in float32.

    Args:
        mode: "mean" or "max".

    Call arguments:
        inputs: (B, T, D), float.
        mask: (B, T), bool, the padding mask; Keras fills it in.

    Output shape: (B, D). The padding mask ends here.

    Raises:
        ValueError: If the mode is unknown, the input is not of rank 3, or the mask holds other values than 0 and 1.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> x, mask = np.array([[[1.0], [3.0], [9.0]], [[1.0], [1.0], [1.0]]]), np.array([[1, 1, 0], [0, 0, 0]])
    >>> np.array(kt.MaskedPooling("mean")(x, mask=mask)).tolist()
    [[2.0], [0.0]]
    """

    def __init__(self, mode: str = "mean", **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "mode", mode, MODES)
        self.mode = mode

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)

    def call(self, inputs, mask=None):
        check_sequence(self, "inputs", inputs.shape)
        real = self.token_mask(inputs, "mask", mask)
        return checked(self._pooled(floats(self, inputs), real), mask)

    def _pooled(self, inputs, mask):
        """One vector for each row of (B, T, D), of the steps where the mask, if there is one, is True."""
        if mask is None:
            return ops.mean(inputs, axis=1) if self.mode == "mean" else ops.max(inputs, axis=1)
        real = ops.expand_dims(mask, -1)  # (B, T, 1)
        if self.mode == "max":
            lowest = ops.where(real, inputs, ops.cast(-float("inf"), inputs.dtype))
            return ops.where(ops.any(real, axis=1), ops.max(lowest, axis=1), ops.zeros_like(inputs[:, 0]))
        total = ops.sum(ops.cast(ops.where(real, inputs, ops.zeros_like(inputs)), "float32"), axis=1)
        count = ops.sum(ops.cast(real, "float32"), axis=1)
        return ops.cast(total / ops.maximum(count, 1.0), inputs.dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}
