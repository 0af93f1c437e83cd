"""The private Keras names that the package needs, in one place, with the reason for each.

Keras keeps the padding mask of a tensor in `_keras_mask`, and the call that produced a symbolic tensor in
`_keras_history` and `_inbound_nodes`. Neither has a public reader, and two promises rest on them: a padding mask
that an operation dropped is found again, and any functional model can be split into its source and target parts.
`_flatten_layers` reaches the layers within layers, such as the two of a `Bidirectional`; `Model.layers` does not.
Tried on Keras 3.12.0 and 3.15.1.
"""

from typing import Any, NamedTuple

import keras
from keras.src.backend import get_keras_mask, set_keras_mask


class Call(NamedTuple):
    """One call of an operation in a functional model: what was called, with what, and what came out."""

    operation: Any
    args: tuple
    kwargs: dict
    inputs: list
    outputs: list


def get_mask(tensor) -> Any:
    """The padding mask that Keras carries on `tensor`, or None."""
    return get_keras_mask(tensor)


def set_mask(tensor, mask) -> None:
    """Put a padding mask on `tensor`, where Keras layers will find it."""
    set_keras_mask(tensor, mask)


def producing_call(tensor) -> Call | None:
    """The call that produced a symbolic tensor, or None for the input of a model."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    if not node.input_tensors:
        return None
    return Call(node.operation, node.arguments.args, node.arguments.kwargs, node.input_tensors, node.outputs)


def is_functional(operation) -> bool:
    """Whether an operation is itself a functional graph (a functional or Sequential model used as a layer)."""
    return isinstance(operation, keras.Sequential) or type(operation).__name__ == "Functional"


def layers_within(layer: keras.layers.Layer) -> list:
    """All layers of a model, or within a layer, at any depth."""
    return list(layer._flatten_layers(include_self=False, recursive=True))
