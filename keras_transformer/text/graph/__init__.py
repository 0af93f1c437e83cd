"""The tokenizer of a checkpoint as operations of the TensorFlow graph."""

from keras_transformer.text.graph.strings import NotInTheGraph
from keras_transformer.text.graph.tokenizer import GraphTokenizer

__all__ = ["GraphTokenizer", "NotInTheGraph"]
