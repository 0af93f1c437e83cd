"""What the package knows of a family of checkpoints: how to read its settings, and what its tensors are called."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import keras

from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.layouts import Entry
from keras_transformer.pretrained.weights import Tensor


class Architecture(Protocol):
    """A shape of model with the switches of a family set, as `Family.read` makes one of a configuration file."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Variables and the tensors that they are made of."""

    def build(self, architecture: str | None, dtype) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Inputs and outputs of the model that `architectures` in the file names, in that dtype policy.

        Raises:
            ValueError: If there is no such model here.
        """


class Family(NamedTuple):
    """A family of checkpoints, known by the `model_type` in their configuration file.

    Attributes:
        read: Its settings as the switches of a shape of model.
        prefix: What the names of the base model's tensors begin with where it is part of another; those in entries do
            not, unless they begin with a colon, which stands for no prefix.
        ignored: Regular expressions of names of tensors that hold nothing that was learned, such as masks.
        heads: Of tensors that a file may have beside those of its model, such as those of pretraining. They are kept
            (`kept.Kept`).
        renamed: Regular expressions of names that older files have, and what is put in their place.
        adapt: The shape as the tensors of a checkpoint want it, where settings do not tell: of the shape, the tensors,
            those that are ignored among them, and what error messages call the checkpoint.
    """

    read: Callable[[Settings], Architecture]
    prefix: str
    ignored: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    adapt: Callable[[Any, Mapping[str, Tensor], str], Architecture] = lambda shape, tensors, where: shape
