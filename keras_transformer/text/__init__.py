"""Tokenizers that run inside the TensorFlow graph, so that an exported model takes and gives strings."""

from keras_transformer.text.character import ByteTokenizer, CharacterTokenizer
from keras_transformer.text.pretrained import PretrainedTokenizer
from keras_transformer.text.pretrained_sentencepiece import PretrainedSentencePieceTokenizer
from keras_transformer.text.sentencepiece import SentencePieceTokenizer
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.text.wordpiece import WordPieceTokenizer

__all__ = [
    "ByteTokenizer",
    "CharacterTokenizer",
    "PretrainedSentencePieceTokenizer",
    "PretrainedTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
]
