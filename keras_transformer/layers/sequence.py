"""The base of layers that need the padding mask: a mask that was dropped on the way is found again."""

import warnings
import weakref
from contextvars import ContextVar

import keras

from keras_transformer._keras import get_mask, is_in_a_graph, layers_within, outermost_call
from keras_transformer.layers.checks import describe
from keras_transformer.layers.padding import makes_masks, padding_of
from keras_transformer.layers.shaped import Shaped
from keras_transformer.ops.masks import boolean

_SEQUENCES = (("inputs", "mask"), ("memory", "memory_mask"))
_REMEDY = "hand the mask over as the argument `{}`, or use a layer that keeps it."
_WARNED = weakref.WeakSet()
_WITHIN: ContextVar[bool] = ContextVar("within a sequence layer", default=False)


class SequenceLayer(Shaped):
    """A layer on (B, T, D) sequences that takes part in Keras masking.

    Keras hands masks from layer to layer, but an operation such as `x + y` drops them, and the padding would be
    attended to without a word. So a call on a symbolic tensor without a mask looks back at what made the tensor
    (`padding.py`). If a mask was dropped there, the layer warns once, naming the operation, and where what became of
    the mask can be told it takes it up again. Within a subclassed model nothing tells what made a tensor; there it
    warns if a mask was made in the same call.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def __call__(self, *args, **kwargs):
        given = {**dict(zip(self.call_signature_parameters, args, strict=False)), **kwargs}
        for name, value in given.items():
            if name.endswith("mask"):
                boolean(describe(self), value, name)
        for name, mask_name in _SEQUENCES:
            tensor = given.get(name)
            if tensor is None or given.get(mask_name) is not None or get_mask(tensor) is not None:
                continue
            if isinstance(tensor, keras.KerasTensor):
                mask = self._restore_mask(tensor, mask_name)
                if mask is not None:
                    kwargs[mask_name] = mask
            elif not _WITHIN.get():
                self._suspect(tensor, mask_name)
        token = _WITHIN.set(True)  # its parts are given what it has
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _WITHIN.reset(token)

    def _restore_mask(self, tensor, mask_name: str):
        """The padding mask that a symbolic tensor has lost, where it can be told; with a warning, once."""
        padding = padding_of(tensor)
        if padding is None or padding.dropped_by is None:
            return None
        if padding.dropped_by not in _WARNED:
            _WARNED.add(padding.dropped_by)
            outcome = f"Padding will be attended to: {_REMEDY.format(mask_name)}"
            warnings.warn(
                f"{describe(self)} is called on a tensor whose padding mask was dropped by the operation "
                f"{describe(padding.dropped_by)}. {outcome if padding.mask is None else 'It is used all the same.'}",
                stacklevel=3,
            )
        return padding.mask

    def _suspect(self, tensor, mask_name: str) -> None:
        """Warn, once, if a tensor within a subclassed model seems to have lost its mask."""
        call = outermost_call()
        if call is None or call.entry_layer is self or is_in_a_graph(self) or self in _WARNED:
            return
        maker = _maker(call, tensor)
        if maker is not None:
            _WARNED.add(self)
            warnings.warn(
                f"{describe(self)} is called within {describe(call.entry_layer)} on a tensor whose padding mask was "
                f"dropped: {describe(maker)} made one, and an operation on the way, such as x + y or x[:, 1:], lost "
                f"it. Padding will be attended to: {_REMEDY.format(mask_name)} (If this sequence has no padding, "
                "nothing is lost.)",
                stacklevel=4,
            )


def _maker(call, tensor):
    """A layer that made a mask within an outermost call, if a tensor (B, T, D) is a sequence of more than one."""
    shape = tuple(getattr(tensor, "shape", ()))
    if len(shape) < 3 or shape[1] == 1:
        return None
    for layer in getattr(call, "masks_made", ()):
        return layer
    # Of Keras' own layers it is not noted when they make one.
    inner = [x for x in layers_within(call.entry_layer) if not is_in_a_graph(x) and not hasattr(x, "padding_id")]
    return next((x for x in inner if makes_masks(x)), None)


def note_mask(layer, mask) -> None:
    """Note that a layer has made a mask (B, T), for layers behind it within a subclassed model."""
    call = outermost_call()
    if call is not None and not isinstance(mask, keras.KerasTensor):
        call.masks_made = [*getattr(call, "masks_made", ()), layer]
