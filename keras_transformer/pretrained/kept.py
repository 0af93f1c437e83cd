"""Tensors of a checkpoint that its model does not use, which are to come back all the same."""

import re
from collections.abc import Iterable, Mapping, Sequence

import keras

from keras_transformer.layers.quantized import Small
from keras_transformer.pretrained.layouts import SAME, Entry
from keras_transformer.pretrained.weights import Tensor

NAME = "kept"


@keras.saving.register_keras_serializable("keras_transformer")
class Kept(Small, keras.layers.Layer):
    """y = x. It holds what a file has beside the weights of its model, such as the pooler of an encoder that was saved
    with the head of pretraining, so that `save_model` can give it back. Nothing of it is trained.

    Args:
        tensors: Names and shapes.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.pretrained.kept import Kept
    >>> layer = Kept({"pooler.dense.bias": (3,)})
    >>> tuple(layer(np.ones((1, 2))).shape), [x.path for x in layer.weights]
    ((1, 2), ['kept/tensor_0'])
    """

    def __init__(self, tensors: Mapping[str, Sequence[int]], name: str = NAME, **kwargs):
        super().__init__(name=name, **kwargs)
        self.tensors = {key: list(shape) for key, shape in tensors.items()}
        self.supports_masking = True

    def build(self, inputs_shape):
        for i, shape in enumerate(self.tensors.values()):
            self.add_weight(name=f"tensor_{i}", shape=shape, initializer="zeros", trainable=False, autocast=False)

    def call(self, inputs):
        return inputs

    def get_config(self):
        return {**super().get_config(), "tensors": self.tensors}

    @property
    def entries(self) -> list[Entry]:
        """Of the weights; the names are whole ones."""
        return [Entry(f"{self.name}/tensor_{i}", (f":{key}",), SAME) for i, key in enumerate(self.tensors)]


def keep(outputs, unused: Mapping[str, Tensor], dtype):
    """The same outputs, with a layer in the model that holds the tensors."""
    first, *others = keras.tree.flatten(outputs)
    layer = Kept({name: tensor.shape for name, tensor in unused.items()}, dtype=dtype)
    return keras.tree.pack_sequence_as(outputs, [layer(first), *others])


def of_heads(tensors: Mapping[str, Tensor], patterns: Iterable[str]) -> dict[str, Tensor]:
    """Those tensors that are of other heads than the model's."""
    return {name: x for name, x in tensors.items() if any(re.fullmatch(pattern, name) for pattern in patterns)}


def kept_entries(model: keras.Model) -> list[Entry]:
    """The entries of what a model keeps."""
    return [entry for layer in model.layers if isinstance(layer, Kept) for entry in layer.entries]
