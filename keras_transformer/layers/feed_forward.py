"""The position-wise feed-forward network, plain or gated."""

from typing import Unpack

import keras

from keras_transformer.layers.checks import check_positive, check_rate, check_sequence
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.gating import Gating, GatingOptions
from keras_transformer.layers.shaped import Shaped


@keras.saving.register_keras_serializable("keras_transformer")
class FeedForward(Shaped, Gating):
    """Position-wise feed-forward network: two dense layers around a non-linearity.

    FFN(x) = activation(x W1 + b1) W2 + b2, each position by itself ("Attention Is All You Need", section 3.3). With
    `gated=True`: FFN(x) = (activation(x W1 + b1) * (x V1 + c1)) W2 + b2 ("GLU Variants Improve Transformer",
    https://arxiv.org/abs/2002.05202), SwiGLU with "silu" and GEGLU with "gelu". [W1, V1] is one matrix.

    Args:
        intermediate_dim: Width F of the inner layer.
        activation: Name of a Keras activation, "quick_gelu", "tanh_gelu", or a function.
        gated: Whether a second projection gates the first.
        gate_limit: L: with it, min(x W1 + b1, L) is activated, and multiplied by x V1 + c1 within [-L, L] (gpt-oss).
        gate_offset: Added to x V1 + c1.
        dropout: Rate at which inner activations are dropped.
        use_bias: Whether the dense layers have biases.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the dense layers, as in `keras.layers.Dense`.

    Input and output shape: (B, T, D), float. The padding mask passes through.

    Raises:
        ValueError: If `intermediate_dim` is not positive, the rate is not in [0, 1), the activation is unknown, or the
            input is not of rank 3.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.FeedForward(32, activation="silu", gated=True)
    >>> tuple(layer(np.ones((2, 3, 8))).shape)
    (2, 3, 8)
    """

    def __init__(
        self,
        intermediate_dim: int,
        *,
        dropout: float = 0.0,
        use_bias: bool = True,
        **kwargs: Unpack[GatingOptions],
    ):
        super().__init__(**kwargs)
        check_positive(self, intermediate_dim=intermediate_dim)
        check_rate(self, dropout=dropout)
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.use_bias = use_bias
        self.supports_masking = True

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        width, inner = inputs_shape[-1], self.intermediate_dim
        self.inner = self.project(self.inner_width(inner), "inner", width, use_bias=self.use_bias)
        self.dropout_layer = self.make(Dropout, "dropout", rate=self.dropout)
        self.outer = self.project(width, "outer", inner, use_bias=self.use_bias)

    def call(self, inputs, training=None):
        check_sequence(self, "inputs", inputs.shape)
        hidden = self.activate(self.inner(inputs), training)
        return self.outer(self.dropout_layer(hidden, training=training))

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
        }
