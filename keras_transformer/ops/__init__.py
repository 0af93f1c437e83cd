"""Pure functions on tensors: no state, no layers."""

from keras_transformer.ops.attention import dot_product_attention
from keras_transformer.ops.masks import attention_mask
from keras_transformer.ops.positions import alibi_slopes, relative_buckets, rotate, sinusoids

__all__ = [
    "alibi_slopes",
    "attention_mask",
    "dot_product_attention",
    "relative_buckets",
    "rotate",
    "sinusoids",
]
