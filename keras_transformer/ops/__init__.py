"""Pure functions on tensors: no state, no layers."""

from keras_transformer.ops.activations import quick_gelu, tanh_gelu
from keras_transformer.ops.attention import additive_attention, dot_product_attention
from keras_transformer.ops.kernels import attention_kernel
from keras_transformer.ops.masks import attention_mask
from keras_transformer.ops.normalization import layer_normalization
from keras_transformer.ops.positions import alibi_slopes, relative_buckets, rotate, sinusoids
from keras_transformer.ops.random import dropout, random_bits

__all__ = [
    "additive_attention",
    "alibi_slopes",
    "attention_kernel",
    "attention_mask",
    "dot_product_attention",
    "dropout",
    "layer_normalization",
    "quick_gelu",
    "random_bits",
    "relative_buckets",
    "rotate",
    "sinusoids",
    "tanh_gelu",
]
