"""The position-wise feed-forward network, plain or gated."""

import keras

from keras_transformer.layers.checks import check_positive, check_rate, check_sequence, get_activation
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.projection import Projection


@keras.saving.register_keras_serializable("keras_transformer")
class FeedForward(keras.layers.Layer):
    """Position-wise feed-forward network: two dense layers around a non-linearity.

    FFN(x) = activation(x W1 + b1) W2 + b2, each position by itself ("Attention Is All You Need", section 3.3). With
    `gated=True`: FFN(x) = (activation(x W1 + b1) * (x V1 + c1)) W2 + b2 ("GLU Variants Improve Transformer",
    https://arxiv.org/abs/2002.05202), SwiGLU with "silu" and GEGLU with "gelu". [W1, V1] is one matrix.

    Args:
        intermediate_dim: Width F of the inner layer.
        activation: Name of a Keras activation, or a function.
        gated: Whether a second projection gates the first.
        dropout: Rate at which inner activations are dropped.
        use_bias: Whether the dense layers have biases.
        kernel_initializer, bias_initializer: Of the dense layers.

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
        activation="relu",
        gated: bool = False,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, intermediate_dim=intermediate_dim)
        check_rate(self, dropout=dropout)
        self.intermediate_dim = intermediate_dim
        self.activation = get_activation(self, activation)
        self.gated = gated
        self.dropout = dropout
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.supports_masking = True

    def _dense(self, units: int, name: str) -> Projection:
        return Projection(
            units,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self.inner = self._dense(self.intermediate_dim * (2 if self.gated else 1), "inner")
        self.inner.build(inputs_shape)
        self.dropout_layer = Dropout(self.dropout, dtype=self.dtype_policy, name="dropout")
        self.outer = self._dense(inputs_shape[-1], "outer")
        self.outer.build((*inputs_shape[:-1], self.intermediate_dim))

    def call(self, inputs, training=None):
        check_sequence(self, "inputs", inputs.shape)
        hidden = self.inner(inputs)
        if self.gated:
            hidden, gate = keras.ops.split(hidden, 2, axis=-1)
            hidden = self.activation(hidden) * gate
        else:
            hidden = self.activation(hidden)
        return self.outer(self.dropout_layer(hidden, training=training))

    def compute_output_shape(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": keras.activations.serialize(self.activation),
            "gated": self.gated,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }
