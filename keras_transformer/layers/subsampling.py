"""Convolutions that make a long series shorter before an encoder reads it."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_transformer.layers.checks import check_positive, check_sequence, describe, floats, get_activation
from keras_transformer.layers.projection import Projecting
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.masks import checked


class Convolution(Small, keras.layers.Conv1D):
    """`keras.layers.Conv1D`, which stays in float where a model is quantized."""

    def __init__(self, filters: int, kernel_size: int, **kwargs):
        super().__init__(filters=filters, kernel_size=kernel_size, **kwargs)


@keras.saving.register_keras_serializable("keras_transformer")
class ConvolutionalSubsampling(SequenceLayer, Projecting):
    """Strided convolutions over time in front of an encoder, as speech Transformers have them ("fairseq S2T",
    https://arxiv.org/abs/2010.05171, section 3.2; "Robust Speech Recognition via Large-Scale Weak Supervision",
    https://arxiv.org/abs/2212.04356, section 2.2, of which `strides=(1, 2), activation="gelu"` is the setting).

    For each stride s in turn, with kernel size k and zeros beyond both ends:

        y[t] = activation(b + sum over i of x[t s + i - (k - 1) // 2] W[i])

    So y[t] stands for x[t s] and what is around it, T steps become ceil(T / s), and t is real if x[t s] is. What lies
    under padding counts as zeros before each convolution: a sequence that is padded on the right gives what it gives
    alone. (`keras.layers.Conv1D` drops the mask, and puts its zeros elsewhere where T is even and where it is odd.)

    Args:
        dim: Width D of the output, and of what is between the convolutions.
        strides: One for each convolution; a number is that of a single one.
        kernel_size: k, of all of them.
        activation: Name of a Keras activation, "quick_gelu", "tanh_gelu", or a function; None for none.
        use_bias: Whether the convolutions have biases.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the convolutions, as in `keras.layers.Dense`.

    Call arguments:
        inputs: (B, T, C), float.
        mask: (B, T), bool, the padding mask; Keras fills it in.

    Output shape: (B, ceil(T / strides), D). The padding mask goes with it.

    Raises:
        ValueError: If a size is not positive, there is no stride, the activation is unknown, the input is not of rank
            3, or the mask holds other values than 0 and 1.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> tuple(kt.ConvolutionalSubsampling(8, (2, 2))(np.ones((2, 99, 40))).shape)
    (2, 25, 8)
    """

    def __init__(
        self,
        dim: int,
        strides: int | Sequence[int] = (2, 2),
        *,
        kernel_size: int = 3,
        activation="relu",
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, dim=dim, kernel_size=kernel_size)
        strides = strides if isinstance(strides, list | tuple) else (strides,)
        if not strides:
            raise ValueError(f"{describe(self)} takes a stride for each of its convolutions, got {strides!r}.")
        for stride in strides:
            check_positive(self, strides=stride)
        self.dim = dim
        self.strides = tuple(map(int, strides))
        self.kernel_size = kernel_size
        self.activation = get_activation(self, activation)
        self.use_bias = use_bias

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self.convolutions = [
            self.make(
                Convolution,
                f"convolution_{i}",
                filters=self.dim,
                kernel_size=self.kernel_size,
                strides=stride,
                data_format="channels_last",
                activation=self.activation,
                use_bias=self.use_bias,
                **self.weight_options,
            )
            for i, stride in enumerate(self.strides)
        ]
        for i, layer in enumerate(self.convolutions):
            layer.build((None, None, self.dim if i else inputs_shape[-1]))

    def call(self, inputs, mask=None):
        check_sequence(self, "inputs", inputs.shape, self.convolutions[0].kernel.shape[-2])
        x, given, mask = floats(self, inputs), mask, self.token_mask(inputs, "mask", mask)
        before = (self.kernel_size - 1) // 2
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            if mask is not None:
                x = ops.where(ops.expand_dims(mask, -1), x, ops.zeros_like(x))
                mask = mask[:, ::stride]
            x = convolution(ops.pad(x, [[0, 0], [before, self.kernel_size - 1 - before], [0, 0]]))
        return checked(x, given)

    def compute_output_spec(self, inputs, mask=None):
        check_sequence(self, "inputs", inputs.shape, self.convolutions[0].kernel.shape[-2])
        batch, length, _ = inputs.shape
        for stride in self.strides:
            length = None if length is None else (length - 1) // stride + 1
        return keras.KerasTensor((batch, length, self.dim), dtype=self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        mask = self.token_mask(inputs, "mask", previous_mask)
        for stride in () if mask is None else self.strides:
            mask = mask[:, ::stride]
        return mask

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "strides": self.strides,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
