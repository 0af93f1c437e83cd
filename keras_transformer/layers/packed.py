"""Packed sequences in a model that does not take all of them: Keras drops, without a word, what it has no input for."""

import warnings
import weakref

from keras_transformer._keras import dropped_inputs
from keras_transformer.context import decoding
from keras_transformer.layers.checks import describe

_WARNED = weakref.WeakSet()


def check_segments(layer) -> None:
    """Called by attention that is given no segment ids: a word if a model was, and dropped them.

    Raises:
        ValueError: If positions were given, too, so that the batch is surely one of packed sequences.
    """
    for model, lost, given in _lost(layer, "segment_ids"):
        message = (
            f"The model '{model.name}' was given {lost} of packed sequences and has no such input, so that Keras drops "
            f"them: in {describe(layer)} each sequence of a row would look at those before it. Give the model these "
            "inputs, and its attention segment_ids, as the example of kt.training.PackedBatches does."
        )
        if any(name.endswith("positions") for name in given):
            raise ValueError(message)
        _warn(layer, message)


def check_positions(layer) -> None:
    """Called by what counts positions by itself: a warning if a model was given them, and dropped them."""
    for model, lost, _ in _lost(layer, "positions"):
        _warn(
            layer,
            f"The model '{model.name}' was given {lost} of packed sequences and has no such input, so that Keras drops "
            f"them: {describe(layer)} counts positions from the beginning of the row. Give the model these inputs, and "
            "the layer positions, as the example of kt.training.PackedBatches does.",
        )


def _lost(layer, kind: str):
    """The models within which a layer is called, what they dropped of that kind, and all that they were given."""
    if decoding() is None and layer not in _WARNED:
        for model, given, taken in dropped_inputs():
            lost = sorted(name for name in given - taken if name.endswith(kind))
            if lost:
                yield model, lost, given


def _warn(layer, message: str) -> None:
    _WARNED.add(layer)
    warnings.warn(message, stacklevel=4)
