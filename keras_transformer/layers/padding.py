"""What became of a padding mask on the way to a tensor of a functional model.

Keras hands masks from layer to layer, and an operation such as `x + y`, a slice or a convolution drops them without a
word. Here the calls that made a tensor are followed back to where a mask was last seen, and the mask forward again as
far as what each operation does to time is known: element by element, side by side, one after the other, a part of it.
Only what a layer is called on is followed, never a memory beside it.
"""

import inspect
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer._keras import (
    Call,
    Run,
    get_mask,
    is_functional,
    is_keras_op,
    layers_within,
    model_inputs,
    producing_call,
)
from keras_transformer.layers.carried import is_along_time, is_backwards, makes_masks, wrongly_masked
from keras_transformer.ops.elementwise import CONSTANT, ELEMENTWISE, REDUCTIONS

_MERGES = (
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
)
_ALONG_AXIS = {"Cumprod", "Cumsum", "LogSoftmax", "Softmax", "Sort"}


class Padding(NamedTuple):
    """What is known of the padding of a sequence.

    Attributes:
        mask: (B, T), symbolic; None where it cannot be told any more.
        dropped_by: The operation that dropped it; None if the tensor carries a mask when the model runs.
    """

    mask: object
    dropped_by: object = None


def padding_of(tensor) -> Padding | None:
    """The padding of a symbolic tensor (B, T, ...); None if nothing that it was made from has a mask."""
    return _follow([tensor], {})[0]


def padding_within(runs: list[Run], tensor, *, all_padded: bool = False) -> Padding | None:
    """The padding of a symbolic tensor of the innermost of the models that are running: also of what they were given.

    Args:
        all_padded: Whether to take for granted that there is padding in whatever sequences the outermost was given.
    """
    outermost = runs[-1]
    known = {
        id(own): Padding(keras.KerasTensor(own.shape[:2], "bool")) if _is_padded(own, given, all_padded) else None
        for own, given in zip(outermost.model.inputs, outermost.inputs, strict=True)
    }
    for run in reversed(runs[1:]):
        given = model_inputs(run.call)
        if given is None:
            return None
        paddings = _follow(given, known)
        known = {id(own): x for own, x in zip(run.call.operation.inputs, paddings, strict=True)}
    return _follow([tensor], known)[0]


def _is_padded(own, given, all_padded: bool) -> bool:
    return len(own.shape) > 2 and (all_padded or get_mask(given) is not None)


def _follow(tensors, known: dict) -> list[Padding | None]:
    """The padding of each tensor. `known` has that of tensors by identity, and is added to."""
    pending = list(tensors)
    while pending:
        tensor = pending[-1]
        if id(tensor) in known:
            pending.pop()
            continue
        call, mask = producing_call(tensor), get_mask(tensor)
        origin = tensor if mask is None else wrongly_masked(tensor)
        if origin is None:
            known[id(tensor)] = Padding(mask)
        elif call is None:
            known[id(tensor)] = None
        else:
            before = _sources(call) if origin is tensor else [origin]
            missing = [x for x in before if id(x) not in known]
            pending += missing
            if not missing:
                known[id(tensor)] = _after(call, tensor, known) if origin is tensor else known[id(origin)]
    return [known[id(x)] for x in tensors]


def _sources(call: Call) -> list:
    """The tensors whose padding may be that of the outputs: of a layer, what it is called on."""
    if not isinstance(call.operation, keras.layers.Layer):
        return call.inputs
    return [x for x in keras.tree.flatten(_called_on(call)) if isinstance(x, keras.KerasTensor)]


def _called_on(call: Call):
    """The first argument of a layer."""
    if call.args:
        return call.args[0]
    names = list(inspect.signature(type(call.operation).call).parameters)[1:]
    return next((call.kwargs[name] for name in names if name in call.kwargs), None)


def _after(call: Call, tensor, known: dict) -> Padding | None:
    """The padding of an output of a call, from that of what went in."""
    operation = call.operation
    if is_functional(operation):
        return _within(call, tensor, known)
    before = {id(x): known[id(x)] for x in _sources(call) if known[id(x)] is not None}
    if not before:
        makes = isinstance(operation, keras.layers.Layer) and any(map(makes_masks, layers_within(operation)))
        if isinstance(operation, keras.layers.TimeDistributed) and makes:
            return Padding(None, operation)  # it asks no layer for a mask
        return Padding(None) if makes else None  # of a subclassed model: what is there when it runs
    if isinstance(operation, keras.layers.Layer):
        return _after_layer(call, tensor, before)
    rule = _RULES.get(type(operation).__name__) if is_keras_op(operation) else None
    return (rule or _unknown)(call, tensor, before)


def _within(call: Call, tensor, known: dict) -> Padding | None:
    """Of an output of a model within the model. A mask that is made in there is there when the model runs."""
    model, given = call.operation, model_inputs(call)
    if given is None:  # called in a way that only itself understands
        return _unknown(call, tensor, {id(x): known[id(x)] for x in _sources(call) if known[id(x)] is not None})
    inner = {id(own): known[id(x)] for own, x in zip(model.inputs, given, strict=True)}
    outer_masks = {id(x.mask) for x in inner.values() if x is not None}
    place = next(i for i, x in enumerate(call.outputs) if x is tensor)
    found = _follow([model.outputs[place]], inner)[0]
    return found if found is None or id(found.mask) in outer_masks else found._replace(mask=None)


def _after_layer(call: Call, tensor, before: dict) -> Padding | None:
    layer = call.operation
    masked = all(id(x) in before for x in _sources(call))
    carried = all(x.dropped_by is None for x in before.values())
    if isinstance(layer, _MERGES):
        return next(iter(before.values())) if carried and masked else _elementwise(call, tensor, before)
    if isinstance(layer, keras.layers.Concatenate):
        found = _concatenate(call, tensor, before)
        return found._replace(dropped_by=None) if carried and (masked or is_along_time(call)) else found
    if is_backwards(layer) and len(tensor.shape) > 2:
        (padding,) = before.values()
        return padding if padding.mask is None else Padding(ops.flip(padding.mask, axis=1), _dropped_by(call, before))
    if layer.supports_masking:
        return _as_the_layer_says(call, tensor, before)
    (slot, padding), *others = before.items()
    rule = next((rule for kind, rule in _LENGTHS.items() if isinstance(layer, kind)), None)
    if rule is None or others or padding.mask is None:
        return _unknown(call, tensor, before)
    return Padding(rule(layer, padding.mask), padding.dropped_by or layer)


def _as_the_layer_says(call: Call, tensor, before: dict) -> Padding | None:
    """The mask that a layer makes of the one it would have been given."""
    first = next(iter(before.values()))
    masks = [x.mask for x in before.values()]
    if None in masks:
        return first._replace(mask=None)
    argument = _called_on(call)
    handed = keras.tree.map_structure(lambda x: before[id(x)].mask if id(x) in before else None, argument)
    try:
        mask = call.operation.compute_mask(argument, handed)
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        return _unknown(call, tensor, before)
    if isinstance(mask, list | tuple):
        mask = mask[next(i for i, x in enumerate(call.outputs) if x is tensor)] if len(mask) else None
    if mask is not None:
        return Padding(mask, first.dropped_by)
    if isinstance(call.operation, keras.layers.Dot):
        return _unknown(call, tensor, before)
    seen = first.dropped_by is not None and call.kwargs.get("mask") is None  # padding, among what it made one vector of
    return Padding(None, first.dropped_by) if seen else None


def _unknown(call: Call, tensor, before: dict) -> Padding | None:
    """Something was there; whether it fits any more cannot be told."""
    return Padding(None, _dropped_by(call, before)) if before else None


def _without_time(call: Call, tensor, before: dict) -> Padding | None:
    """One vector is left of a sequence, unless its time had got lost before."""
    return (
        _unknown(call, tensor, before)
        if any(x.dropped_by is not None and x.mask is None for x in before.values())
        else None
    )


def _dropped_by(call: Call, before: dict):
    """The operation that dropped the first mask: one on the way, or this one."""
    return next((x.dropped_by for x in before.values() if x.dropped_by is not None), call.operation)


def _combined(call: Call, before: dict) -> Padding | None:
    """Of tensors side by side: a position is real where it is real in all of them."""
    masks = {id(x.mask): x.mask for x in before.values() if x.mask is not None}
    combined = None
    for mask in masks.values():
        combined = mask if combined is None else ops.logical_and(combined, mask)
    return Padding(combined, _dropped_by(call, before))


def _elementwise(call: Call, tensor, before: dict) -> Padding | None:
    rank = len(tensor.shape)
    aligned = {
        id(x): before[id(x)]
        for x in _sources(call)
        if id(x) in before and len(x.shape) == rank and (x.shape[1] != 1 or tensor.shape[1] == 1)
    }
    if aligned:
        return _combined(call, aligned)
    # (B, T, D) beside (B, H, T, D), say; of one position that goes to all, nothing is left
    return _unknown(call, tensor, {key: x for key, x in before.items() if not _is_single(call, key)})


def _is_single(call: Call, key: int) -> bool:
    return any(id(x) == key and x.shape[1] == 1 for x in _sources(call))


def _constant(call: Call, tensor, before: dict) -> None:
    """Zeros or ones in the shape of a sequence: they say nothing of it."""


def _axes(call: Call) -> list[int]:
    """The axes that an operation names, of its first input."""
    axis, rank = call.operation.axis, len(call.inputs[0].shape)
    if axis is None:
        return list(range(rank))
    return [x % rank for x in (axis if isinstance(axis, list | tuple) else [axis])]


def _along_axis(call: Call, tensor, before: dict) -> Padding | None:
    axes = _axes(call)
    return _unknown(call, tensor, before) if 0 in axes or 1 in axes else _combined(call, before)


def _reduction(call: Call, tensor, before: dict) -> Padding | None:
    axes = _axes(call)
    if 1 in axes:
        return _without_time(call, tensor, before)
    return _unknown(call, tensor, before) if 0 in axes else _combined(call, before)


def _concatenate(call: Call, tensor, before: dict) -> Padding | None:
    """Sequences one after the other, those without padding real throughout; or side by side."""
    parts, axis = _sources(call), call.operation.axis % len(tensor.shape)
    if axis == 0:
        return _unknown(call, tensor, before)
    if axis != 1:
        return _combined(call, before)
    if any(x.mask is None for x in before.values()):
        return _unknown(call, tensor, before)
    masks = [before[id(x)].mask if id(x) in before else _all_real(x) for x in parts]
    return Padding(ops.concatenate(masks, axis=1), _dropped_by(call, before))


def _all_real(x):
    """A mask of ones (B, T) for a sequence (B, T, ...)."""
    first = x[(slice(None), slice(None), *[0] * (len(x.shape) - 2))]
    return ops.ones_like(first, dtype="bool")


def _stack(call: Call, tensor, before: dict) -> Padding | None:
    axis = call.operation.axis % len(tensor.shape)
    return _combined(call, before) if axis > 1 else _unknown(call, tensor, before)


def _pad(call: Call, tensor, before: dict) -> Padding | None:
    rows, time, *_ = tuple(call.operation.pad_width) + (None, None)
    (padding,) = before.values()
    if time is None or any(rows) or padding.mask is None:
        return _unknown(call, tensor, before)
    return Padding(ops.pad(padding.mask, [[0, 0], list(time)], constant_values=False), _dropped_by(call, before))


def _item(call: Call, tensor, before: dict) -> Padding | None:
    """x[key]: the same part of the mask."""
    key = call.kwargs.get("key", call.args[1] if len(call.args) > 1 else None)
    key = key if isinstance(key, tuple) else tuple(key) if isinstance(key, list) else (key,)
    (padding,) = before.values()
    rank = len(call.inputs[0].shape)
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key = (*key[:at], *[slice(None)] * (rank - len(key) + 1 + key.count(None)), *key[at + 1 :])
    rows, *rest = (*key, slice(None), slice(None))
    if not isinstance(rows, slice):
        return _unknown(call, tensor, before)
    if isinstance(rest[0], int):
        return _without_time(call, tensor, before)
    if not isinstance(rest[0], slice) or padding.mask is None:
        return _unknown(call, tensor, before)
    whole = rows == slice(None) and rest[0] == slice(None)
    mask = padding.mask if whole else padding.mask[rows, rest[0]]
    return Padding(mask, padding.dropped_by or call.operation)


def _expand(call: Call, tensor, before: dict) -> Padding | None:
    rank, axis = len(tensor.shape), call.operation.axis
    axes = [x % rank for x in (axis if isinstance(axis, list | tuple) else [axis])]
    if axes == [1] and rank == 3 and all(x.mask is None for x in before.values()):
        return None  # one vector
    return _combined(call, before) if min(axes) > 1 else _unknown(call, tensor, before)


def _squeeze(call: Call, tensor, before: dict) -> Padding | None:
    return _combined(call, before) if min(_axes(call)) > 1 else _unknown(call, tensor, before)


def _matmul(call: Call, tensor, before: dict) -> Padding | None:
    """A sequence of vectors times one matrix."""
    left, *right = (*call.args, *call.kwargs.values())
    is_sequence = len(before) == 1 and id(left) in before and len(tensor.shape) == len(left.shape)
    alone = is_sequence and all(len(getattr(x, "shape", ())) == 2 for x in right)
    return _combined(call, before) if alone else _unknown(call, tensor, before)


def _reshape(call: Call, tensor, before: dict) -> Padding | None:
    """The last axes split or joined, as those of heads are: rows and positions stay."""
    (x,) = call.inputs
    if None in (*x.shape[2:], *tensor.shape[2:]):
        return _unknown(call, tensor, before)
    width, new = 1, 1
    for size in x.shape[2:]:
        width *= size
    for size in tensor.shape[2:]:
        new *= size
    same = width == new and x.shape[1] == tensor.shape[1] is not None
    return _combined(call, before) if same else _unknown(call, tensor, before)


_RULES = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(CONSTANT, _constant),
    **dict.fromkeys(_ALONG_AXIS, _along_axis),
    **dict.fromkeys(REDUCTIONS, _reduction),
    "Concatenate": _concatenate,
    "ExpandDims": _expand,
    "GetItem": _item,
    "Matmul": _matmul,
    "Pad": _pad,
    "Reshape": _reshape,
    "Split": _along_axis,
    "Squeeze": _squeeze,
    "Stack": _stack,
    "Unstack": _along_axis,
}


def _padded(layer, mask):
    return ops.pad(mask, [[0, 0], list(layer.padding)], constant_values=False)


def _cropped(layer, mask):
    start, end = layer.cropping
    return mask[:, start : -end if end else None]


# Keras' layers that change the length as the mask's can be changed.
_LENGTHS = {
    keras.layers.ZeroPadding1D: _padded,
    keras.layers.Cropping1D: _cropped,
    keras.layers.UpSampling1D: lambda layer, mask: ops.repeat(mask, layer.size, axis=1),
}
