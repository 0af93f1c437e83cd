"""Transformer layers for Keras 3 that compose, train, generate with a cache, and export."""

from keras_transformer import export, models, ops, text, training
from keras_transformer.decoding import Generator, Greedy
from keras_transformer.insight import attention_weights
from keras_transformer.layers import (
    AlibiPosition,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    LearnedPositionalEncoding,
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    PositionalEncoding,
    RelativePosition,
    RMSNormalization,
    RotaryPosition,
    TokenEmbedding,
)

__all__ = [
    "AlibiPosition",
    "DecoderLayer",
    "EncoderLayer",
    "FeedForward",
    "Generator",
    "Greedy",
    "LearnedPositionalEncoding",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "PositionalEncoding",
    "RMSNormalization",
    "RelativePosition",
    "RotaryPosition",
    "TokenEmbedding",
    "attention_weights",
    "export",
    "models",
    "ops",
    "text",
    "training",
]
