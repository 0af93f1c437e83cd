"""Generation from any functional model."""

from keras_transformer.decoding.generator import Generator
from keras_transformer.decoding.strategies import Greedy, Strategy

__all__ = ["Generator", "Greedy", "Strategy"]
