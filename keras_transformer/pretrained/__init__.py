"""Checkpoints of the world, as models of our layers: from a folder, and back."""

from keras_transformer.pretrained.generating import load_generator
from keras_transformer.pretrained.loading import load_model
from keras_transformer.pretrained.model import PretrainedModel
from keras_transformer.pretrained.saving import save_model
from keras_transformer.pretrained.tokenizer import load_tokenizer

__all__ = ["PretrainedModel", "load_generator", "load_model", "load_tokenizer", "save_model"]
