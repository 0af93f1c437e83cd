"""Layers: one concept a file."""

from keras_transformer.layers.attention import MultiHeadSelfAttention
from keras_transformer.layers.class_token import ClassToken
from keras_transformer.layers.cross_attention import MultiHeadCrossAttention
from keras_transformer.layers.decoder import DecoderLayer
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.encoder import EncoderLayer
from keras_transformer.layers.experts import MixtureOfExperts
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.normalization import LayerNormalization, RMSNormalization
from keras_transformer.layers.padding_mask import PaddingMask
from keras_transformer.layers.patches import PatchEmbedding
from keras_transformer.layers.pooling import MaskedPooling
from keras_transformer.layers.position import (
    AlibiPosition,
    AttentionPosition,
    RelativePosition,
    RotaryPosition,
)
from keras_transformer.layers.positional_encoding import LearnedPositionalEncoding, PositionalEncoding
from keras_transformer.layers.recurrent import DotAttention, RecurrentDecoderLayer
from keras_transformer.layers.reversible import ReversibleNormalization
from keras_transformer.layers.spectrogram import LogMelSpectrogram
from keras_transformer.layers.subsampling import ConvolutionalSubsampling

__all__ = [
    "AlibiPosition",
    "AttentionPosition",
    "ClassToken",
    "ConvolutionalSubsampling",
    "DecoderLayer",
    "DotAttention",
    "EncoderLayer",
    "FeedForward",
    "LayerNormalization",
    "LearnedPositionalEncoding",
    "LogMelSpectrogram",
    "MaskedPooling",
    "MixtureOfExperts",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "PaddingMask",
    "PatchEmbedding",
    "PositionalEncoding",
    "RMSNormalization",
    "RecurrentDecoderLayer",
    "RelativePosition",
    "ReversibleNormalization",
    "RotaryPosition",
    "TokenEmbedding",
]
