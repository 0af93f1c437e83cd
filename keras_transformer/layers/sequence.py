"""The base of layers that need the padding mask: a mask that was dropped on the way is found again."""

import warnings
import weakref

import keras
from keras import ops

from keras_transformer._keras import get_mask, producing_call
from keras_transformer.layers.checks import describe
from keras_transformer.layers.shaped import Shaped
from keras_transformer.ops.masks import boolean

# Operations that treat each element by itself, so the mask of what goes in is that of what comes out.
ELEMENTWISE = {
    "Abs", "Add", "Cast", "Divide", "Gelu", "Maximum", "Minimum", "Multiply", "Negative", "Relu", "Sigmoid",
    "Silu", "Subtract", "Tanh", "TrueDivide",
}  # fmt: skip

_WARNED = weakref.WeakSet()


class SequenceLayer(Shaped):
    """A layer on (B, T, D) sequences that takes part in Keras masking.

    Keras hands masks from layer to layer, but an operation such as `x + y` drops them, and the padding would be
    attended to without a word. So a call on a symbolic tensor without a mask looks back at what made the tensor. If
    a mask was dropped there, the layer warns once, naming the operation, and where that operation works element by
    element it takes the mask up again.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def __call__(self, *args, **kwargs):
        for name, value in {**dict(zip(self.call_signature_parameters, args, strict=False)), **kwargs}.items():
            if name.endswith("mask"):
                boolean(describe(self), value, name)
        for name, mask_name, position in (("inputs", "mask", 0), ("memory", "memory_mask", 1)):
            tensor = args[position] if len(args) > position else kwargs.get(name)
            if isinstance(tensor, keras.KerasTensor) and kwargs.get(mask_name) is None and get_mask(tensor) is None:
                mask = self._restore_mask(tensor)
                if mask is not None:
                    kwargs[mask_name] = mask
        return super().__call__(*args, **kwargs)

    def _restore_mask(self, tensor):
        dropped = _find_dropped_mask(tensor)
        if dropped is None:
            return None
        mask, operation, restorable = dropped
        if operation not in _WARNED:
            _WARNED.add(operation)
            outcome = "It is used all the same." if restorable else (
                "Padding will be attended to: hand the mask over as the argument `mask`, or use a layer that keeps it."
            )  # fmt: skip
            warnings.warn(
                f"{describe(self)} is called on a tensor whose padding mask was dropped by the operation "
                f"{describe(operation)}. {outcome}",
                stacklevel=3,
            )
        return mask if restorable else None


def _find_dropped_mask(tensor):
    """Look back for a dropped mask: (mask, operation that dropped it, whether it still fits), or None."""
    seen = set()
    frontier = [(tensor, True)]
    while frontier:
        current, aligned = frontier.pop(0)
        call = producing_call(current)
        if call is None or id(current) in seen or len(current.shape) < 3:
            continue
        seen.add(id(current))
        operation = call.operation
        aligned = aligned and (type(operation).__name__ in ELEMENTWISE or getattr(operation, "supports_masking", False))
        sequences = [x for x in call.inputs if len(x.shape) >= 3 and x.shape[1] == current.shape[1]]
        masks = {id(get_mask(x)): get_mask(x) for x in sequences if get_mask(x) is not None}
        if masks:
            combined = None
            for mask in masks.values():
                combined = mask if combined is None else ops.logical_and(combined, mask)
            return combined, operation, aligned
        frontier.extend((x, aligned) for x in sequences)
    return None
