"""Parts of an image or of a series as the vectors of a sequence."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_transformer.layers.checks import check_positive, describe, floats
from keras_transformer.layers.projection import Projecting
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.masks import checked


@keras.saving.register_keras_serializable("keras_transformer")
class PatchEmbedding(SequenceLayer, Small, Projecting):
    """Each patch of an image, or of a series, projected to a vector ("An Image is Worth 16x16 Words",
    https://arxiv.org/abs/2010.11929, equation 1; for series "A Time Series is Worth 64 Words",
    https://arxiv.org/abs/2211.14730).

    y[n] = b + sum over i, j of x[r s + i, c s + j] W[i, j], for the patch n in row r and column c, row by row; of a
    series y[n] = b + sum over i of x[n s + i] W[i]. What is left at the end, too little for a patch, is left out. Steps
    of a series that are padding count as zeros, and a patch is real if any of its steps is.

    Args:
        dim: Width D of the vectors.
        patch_size: Height and width of a patch, or one number for both; the number of steps in a series.
        strides: From patch to patch, as `patch_size`, and that by default: then patches lie side by side.
        use_bias: Whether the projection has a bias.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the projection, as in `keras.layers.Dense`.

    Call arguments:
        inputs: (B, height, width, C) or (B, T, C), float. Channels come last, whatever
            `keras.config.image_data_format()` is.
        mask: (B, T), bool, the padding mask of a series; Keras fills it in.

    Output shape: (B, N, D). The padding mask goes with it. Weights: `kernel` (*patch_size, C, D), as that of a
    convolution, and `bias` (D,).

    Raises:
        ValueError: If a size is not positive, or is a pair for a series, the input is of another rank, of unknown
            width, of another one than the layer was built with, or smaller than a patch, there is a mask with an image,
            or the mask has another shape or holds other values than 0 and 1 (NaN within compiled functions).

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> tuple(kt.PatchEmbedding(8, 7)(np.ones((2, 28, 28, 1))).shape)
    (2, 16, 8)
    >>> tuple(kt.PatchEmbedding(8, 16, strides=8)(np.ones((2, 336, 1))).shape)
    (2, 41, 8)
    """

    def __init__(
        self,
        dim: int,
        patch_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] | None = None,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, dim=dim)
        self.dim = dim
        self.patch_size = self._sizes("patch_size", patch_size)
        self.strides = self.patch_size if strides is None else self._sizes("strides", strides)
        self.use_bias = use_bias

    def build(self, inputs_shape):
        self._check_shape(inputs_shape)
        axes = len(inputs_shape) - 2
        self._kernel_size, self._steps = self._of_axes(self.patch_size, axes), self._of_axes(self.strides, axes)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self._kernel_size, inputs_shape[-1], self.dim),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.dim,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def call(self, inputs, mask=None):
        self._check_shape(inputs.shape, self.kernel.shape, mask)
        inputs = floats(self, inputs)
        if mask is not None:
            real = self.token_mask(inputs, "mask", mask)
            inputs = ops.where(ops.expand_dims(real, -1), inputs, ops.zeros_like(inputs))
        y = ops.conv(inputs, self.kernel, strides=self._steps, padding="valid", data_format="channels_last")
        y = y if self.bias is None else y + self.bias
        if len(inputs.shape) == 4:
            _, rows, columns, _ = ops.shape(y)
            y = ops.reshape(y, (-1, rows * columns, self.dim))
        return checked(y, mask)

    def compute_output_spec(self, inputs, mask=None):
        self._check_shape(inputs.shape, self.kernel.shape, mask)
        batch, *sizes, _ = inputs.shape
        steps = zip(sizes, self._kernel_size, self._steps, strict=True)
        counts = [None if size is None else (size - patch) // stride + 1 for size, patch, stride in steps]
        number = None if None in counts else math.prod(counts)
        return keras.KerasTensor((batch, number, self.dim), dtype=self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        if previous_mask is None or len(inputs.shape) == 4:
            return None
        real = ops.expand_dims(ops.cast(self.token_mask(inputs, "mask", previous_mask), "float32"), -1)
        any_real = ops.max_pool(real, self._kernel_size, self._steps, padding="valid", data_format="channels_last")
        return ops.squeeze(any_real, -1) > 0

    def _sizes(self, name: str, value) -> int | tuple[int, int]:
        """One number, or one for each axis of an image."""
        if not isinstance(value, list | tuple):
            check_positive(self, **{name: value})
            return int(value)
        if len(value) != 2:
            raise ValueError(f"{describe(self)} takes one number, or height and width, as {name}, got {value!r}.")
        for size in value:
            check_positive(self, **{name: size})
        return int(value[0]), int(value[1])

    def _of_axes(self, size: int | tuple[int, int], axes: int) -> tuple[int, ...]:
        if isinstance(size, int):
            return (size,) * axes
        if axes == 1:
            raise ValueError(f"{describe(self)} takes one number as the size of the patches of a series, got {size}.")
        return size

    def _check_shape(self, shape, kernel_shape=None, mask=None) -> None:
        """Raise ValueError unless an input is an image or a series, as large as a patch, and of the width built for."""
        shape = tuple(shape)
        if len(shape) not in (3, 4) or (kernel_shape is not None and len(shape) != len(kernel_shape)):
            image, series = "(batch, height, width, channels)", "(batch, steps, channels)"
            both = f"{image} or {series}"
            expected = both if kernel_shape is None else image if len(kernel_shape) == 4 else series
            raise ValueError(f"{describe(self)} takes inputs of shape {expected}, got {shape}.")
        width = None if kernel_shape is None else kernel_shape[-2]
        if shape[-1] is None or width not in (None, shape[-1]):
            known = "a known number of channels" if width is None else f"{width} channels"
            raise ValueError(f"{describe(self)} takes inputs of {known} (the last dimension), got {shape}.")
        patch = self._of_axes(self.patch_size, len(shape) - 2)
        if any(size is not None and size < least for size, least in zip(shape[1:-1], patch, strict=True)):
            raise ValueError(f"{describe(self)} takes inputs of at least one patch, {patch}, got {shape}.")
        if mask is not None and len(shape) == 4:
            raise ValueError(f"{describe(self)} takes a mask with a series only, and was given an image, {shape}.")

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "patch_size": self.patch_size,
            "strides": self.strides,
            "use_bias": self.use_bias,
        }
