"""Activations by the names that configuration files have for them."""

import keras

from keras_transformer.ops import quick_gelu, tanh_gelu
from keras_transformer.pretrained.config import Settings

ACTIVATIONS = {
    "gelu": keras.activations.gelu,
    "gelu_new": tanh_gelu,
    "gelu_python": keras.activations.gelu,
    "gelu_python_tanh": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "quick_gelu": quick_gelu,
    "relu": keras.activations.relu,
    "sigmoid": keras.activations.sigmoid,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
    "tanh": keras.activations.tanh,
}


def read_activation(settings: Settings, name: str, default: str):
    """The activation that a setting names.

    Raises:
        ValueError: If it is not known.
    """
    kind = settings.get(name, default)
    if kind not in ACTIVATIONS:
        raise ValueError(f"{settings.where} has {name}={kind!r}; known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[kind]
