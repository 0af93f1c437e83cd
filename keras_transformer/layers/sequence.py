"""The base of layers that need the padding mask: a mask that was dropped on the way is found again."""

import warnings
import weakref
from contextvars import ContextVar

import keras

from keras_transformer._keras import (
    get_mask,
    is_entry,
    is_in_a_graph,
    layers_within,
    outermost_call,
    running,
)
from keras_transformer.layers.carried import makes_masks
from keras_transformer.layers.checks import describe, token_mask
from keras_transformer.layers.padding import padding_of, padding_within
from keras_transformer.layers.shaped import Shaped
from keras_transformer.ops.masks import boolean

_SEQUENCES = (("inputs", "mask"), ("memory", "memory_mask"))
_REMEDY = "hand the mask over as the argument `{}`, or use a layer that keeps it."
_WARNED = weakref.WeakSet()
_LOOKED_AT = weakref.WeakKeyDictionary()
_WITHIN: ContextVar[bool] = ContextVar("within a sequence layer", default=False)


class SequenceLayer(Shaped):
    """A layer on (B, T, D) sequences that takes part in Keras masking.

    Keras hands masks from layer to layer, but an operation such as `x + y` drops them, and the padding would be
    attended to without a word. So a call on a symbolic tensor without a mask looks back at what made the tensor
    (`padding.py`). If a mask was dropped there, the layer warns once, naming the operation, and where what became of
    the mask can be told it takes it up again. A model within a model is given its masks only when it runs: then the
    calls are looked at that led there, and a mask that was dropped on the way is told. Within a subclassed model
    nothing tells what made a tensor; there it warns if a mask was made in the same call.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def __call__(self, *args, **kwargs):
        given = {**dict(zip(self.call_signature_parameters, args, strict=False)), **kwargs}
        for name, value in given.items():
            if name.endswith("mask"):
                boolean(describe(self), value, name)
        for name, mask_name in self.masked_arguments(given):
            tensor = given.get(name)
            if tensor is None or given.get(mask_name) is not None:
                continue
            if isinstance(tensor, keras.KerasTensor):
                mask = self._restore_mask(tensor, mask_name)
                if mask is not None:
                    kwargs[mask_name] = mask
            elif not _WITHIN.get() and get_mask(tensor) is None:
                self._look_for_mask(tensor, name, mask_name)
        token = _WITHIN.set(True)  # its parts are given what it has
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _WITHIN.reset(token)

    def masked_arguments(self, given: dict) -> tuple:
        """The arguments whose padding counts in a call that is given these, and the argument for the mask of each."""
        return _SEQUENCES

    def token_mask(self, sequence, name: str, mask):
        """The padding mask of `sequence` (B, T, D) as booleans (B, T), or None: `checks.token_mask`."""
        if mask is None and not _WITHIN.get():  # called by a wrapper, such as keras.layers.TimeDistributed
            self._suspect(sequence, name)
        return token_mask(self, sequence, name, mask)

    def _restore_mask(self, tensor, mask_name: str):
        """The padding mask that a symbolic tensor has lost, where it can be told; with a warning, once."""
        padding = padding_of(tensor)
        if padding is None or padding.dropped_by is None:
            return None
        self._tell(padding.dropped_by, mask_name, restored=padding.mask is not None, carried=get_mask(tensor))
        return padding.mask

    def _tell(self, culprit, mask_name: str, *, restored: bool = False, carried=None) -> None:
        """Warn, once, of an operation that dropped a mask."""
        if culprit in _WARNED:
            return
        _WARNED.add(culprit)
        become = "dropped" if carried is None else "changed"
        outcome = "It is used all the same." if restored else f"Padding will be attended to: {_REMEDY}"
        warnings.warn(
            f"{describe(self)} is called on a tensor whose padding mask was {become} by the operation "
            f"{describe(culprit)}. {outcome.format(mask_name)}",
            stacklevel=4,
        )

    def _look_for_mask(self, tensor, name: str, mask_name: str) -> None:
        """Warn, once, if a tensor without a mask has lost it, as far as can be told while it is computed."""
        runs = running()
        if not runs or runs[0].call.operation is not self:
            self._suspect(tensor, mask_name)
            return
        places = _LOOKED_AT.setdefault(self, set())  # in the functional models that this layer is part of
        call, place = outermost_call(), (name, *(id(run.call.outputs[0]) for run in runs))
        known = is_entry(runs[-1].model, call)
        if known and place in places:
            return
        if known:
            places.add(place)
        arguments = {
            **dict(zip(self.call_signature_parameters, runs[0].call.args, strict=False)),
            **runs[0].call.kwargs,
        }
        symbolic = arguments[name]
        padding = padding_within(runs, symbolic)
        if padding is not None and padding.dropped_by is not None:
            self._tell(padding.dropped_by, mask_name)
        elif not known and padding_within(runs, symbolic, all_padded=True) is not None:
            self._warn_of(next((x for x in _makers(call, tensor) if not is_in_a_graph(x)), None), call, mask_name)

    def _suspect(self, tensor, mask_name: str) -> None:
        """Warn, once, if a tensor within a subclassed model seems to have lost its mask."""
        call = outermost_call()
        if call is None or call.entry_layer is self or is_in_a_graph(self):
            return
        runs = running()
        if runs and not _may_have_padding(runs):
            return
        self._warn_of(next(_makers(call, tensor), None), call, mask_name)

    def _warn_of(self, maker, call, mask_name: str) -> None:
        if maker is None or self in _WARNED:
            return
        _WARNED.add(self)
        warnings.warn(
            f"{describe(self)} is called within {describe(call.entry_layer)} on a tensor whose padding mask was "
            f"dropped: {describe(maker)} made one, and an operation on the way, such as x + y or x[:, 1:], lost "
            f"it. Padding will be attended to: {_REMEDY.format(mask_name)} (If this sequence has no padding, "
            "nothing is lost.)",
            stacklevel=5,
        )


def _may_have_padding(runs: list) -> bool:
    """Whether what is called in a functional model, and is no layer of ours, makes masks or is given one, or what has
    lost one."""
    operation, inputs = runs[0].call.operation, runs[0].call.inputs
    if not is_entry(runs[-1].model, outermost_call()) or not isinstance(operation, keras.layers.Layer):
        return True
    return any(map(makes_masks, layers_within(operation))) or any(padding_within(runs, x) is not None for x in inputs)


def _makers(call, tensor):
    """The layers that made a mask within an outermost call, if a tensor (B, T, D) is a sequence of more than one."""
    shape = tuple(getattr(tensor, "shape", ()))
    if len(shape) < 3 or shape[1] == 1:
        return
    yield from getattr(call, "masks_made", ())
    # Of Keras' own layers it is not noted when they make one.
    inner = [x for x in layers_within(call.entry_layer) if not is_in_a_graph(x) and not hasattr(x, "padding_id")]
    yield from filter(makes_masks, inner)


def note_mask(layer, ids) -> None:
    """Note that a layer makes a mask of ids (B, T), for layers behind it within a subclassed model."""
    call = outermost_call()
    made = getattr(call, "masks_made", [])
    if call is not None and layer not in made and not isinstance(ids, keras.KerasTensor):
        call.masks_made = [*made, layer]
