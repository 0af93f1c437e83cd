"""The id that pads texts, which a tokenizer and a model have to agree on: by it the model knows what to hide."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.encoder import Encoder, Tokens
from keras_transformer.pretrained.encoder_decoder import EncoderDecoder
from keras_transformer.pretrained.families import FAMILIES
from keras_transformer.pretrained.family import Architecture


def padded(shape: Any, padding: Callable[[], int | None]) -> Architecture:
    """A shape of model that hides what the tokenizer pads with, if it hides padding.

    `transformers` hides the tokenizer's padding, whatever `pad_token_id` is in config.json. That id counts only where
    there is no tokenizer, or where it has no padding token.

    Args:
        shape: Of an encoder, an encoder-decoder or something else.
        padding: Finds the id, if there is one.
    """
    if not _hides(shape):
        return shape
    padding_id = padding()
    size = shape.first.vocabulary_size if isinstance(shape, Encoder) else shape.vocabulary_size
    if padding_id is None or padding_id >= size:
        return shape
    if isinstance(shape, Encoder):
        return replace(shape, first=replace(shape.first, padding_id=padding_id))
    return replace(shape, padding_id=padding_id)


def padding_of_model(config: Mapping) -> int | None:
    """The id that the model of a config.json hides as padding; None where it hides none, or is none that is known."""
    family = FAMILIES.get(config.get("model_type"))
    try:
        shape: Any = None if family is None else family.read(Settings(config, "config.json"))
    except ValueError:  # which is the affair of whoever loads the model
        return None
    if not _hides(shape):
        return None
    return shape.first.padding_id if isinstance(shape, Encoder) else shape.padding_id


def _hides(shape) -> bool:
    """Whether it is a model that hides padding."""
    if isinstance(shape, Encoder):
        return isinstance(shape.first, Tokens) and shape.first.hides_padding
    return isinstance(shape, EncoderDecoder) and shape.features is None
