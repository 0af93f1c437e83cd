"""Tokenizers that run inside the TensorFlow graph, so that an exported model takes and gives strings."""

from keras_transformer.text.sentencepiece import SentencePieceTokenizer

__all__ = ["SentencePieceTokenizer"]
