"""Checkpoints of the world, from a folder."""

from keras_transformer.pretrained.tokenizer import load_tokenizer

__all__ = ["load_tokenizer"]
