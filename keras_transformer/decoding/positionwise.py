"""What is known of Keras' operations: which act on each position of a sequence by itself, and under which arguments.

A sequence is a tensor with a time axis, as (B, T, D) has at place 1. An operation acts on each position by itself if
its output, too, has a time axis, and what stands there at place t follows from what stands in its inputs at place t,
whatever t is. What is not known here may still do so: `inspection.py` tries.
"""

from collections.abc import Callable

import keras
import numpy as np

from keras_transformer._keras import is_keras_op
from keras_transformer.decoding.program import Adapted, Instruction, Slot
from keras_transformer.layers.checks import OWN_ACTIVATIONS
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.experts import MixtureOfExperts
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.fixed_bias import FixedBias
from keras_transformer.layers.normalization import LayerNormalization, RMSNormalization
from keras_transformer.layers.padding_mask import PaddingMask
from keras_transformer.layers.projection import Projection
from keras_transformer.ops.elementwise import CONSTANT, ELEMENTWISE, REDUCTIONS

# keras.ops, by the names of their classes.
ALONG_AXIS = {"Cumprod", "Cumsum", "Flip", "Glu", "LogSoftmax", "Roll", "Softmax", "Sort"}  # of one axis, which stays

LAYERS = keras.layers
POINTWISE_LAYERS = {
    LAYERS.Identity, LAYERS.Dropout, LAYERS.SpatialDropout1D, LAYERS.GaussianDropout, LAYERS.GaussianNoise,
    LAYERS.AlphaDropout, LAYERS.ActivityRegularization, LAYERS.ReLU, LAYERS.LeakyReLU, LAYERS.ELU, LAYERS.Masking,
    Dropout, PaddingMask, Adapted,
}  # fmt: skip
MERGES = {LAYERS.Add, LAYERS.Subtract, LAYERS.Multiply, LAYERS.Average, LAYERS.Maximum, LAYERS.Minimum}
DENSE_LAYERS = {LAYERS.Dense, Projection, FeedForward, MixtureOfExperts, FixedBias}  # on the last axis
NORMALIZATIONS = {
    LAYERS.LayerNormalization, LAYERS.RMSNormalization, LAYERS.UnitNormalization, LAYERS.BatchNormalization,
    LayerNormalization, RMSNormalization,
}  # fmt: skip
SOFTMAXES = (
    "softmax",
    "log_softmax",
    "sparsemax",
)  # activations along the last axis; all other ones of Keras: by element

Axes = dict[int, int]  # the time axis of each slot that is a sequence
Shapes = dict[int, tuple]


def time_axes(instruction: Instruction, axes: Axes, shapes: Shapes) -> tuple[int, ...] | None:
    """The time axis of each output of an instruction that is known to act on each position by itself; else None.

    Args:
        instruction: Of its inputs, those that are in `axes` are sequences; the others do not depend on the sequence.
        axes: Time axis by slot.
        shapes: Shape by slot, of inputs and outputs, as they are in some run.
    """
    rule = _rule(instruction.operation)
    axis = None if rule is None else rule(instruction, axes, shapes)
    return None if axis is None else (axis,) * len(instruction.outputs)


def _rule(operation) -> Callable | None:
    kind = type(operation)
    if kind in _LAYER_RULES:
        return _LAYER_RULES[kind]
    return _OP_RULES.get(kind.__name__) if is_keras_op(operation) else None


def _first(instruction, axes, shapes) -> tuple[int, int, int] | None:
    """Slot, time axis and rank of the first input, if that is the only one which is a sequence, but for a mask."""
    slot, mask = instruction.inputs[0], instruction.kwargs.get("mask")
    beside = {slot, mask.index if isinstance(mask, Slot) else slot}
    if slot not in axes or any(x in axes and x not in beside for x in instruction.inputs):
        return None
    return slot, axes[slot], len(shapes[slot])


def _same(instruction, axes, shapes):
    """Of one sequence, whose time axis stays where it is."""
    first = _first(instruction, axes, shapes)
    return None if first is None or instruction.kwargs.get("training") else first[1]


def _elementwise(instruction, axes, shapes):
    """The inputs are broadcast from the right: their time axes must meet, and nothing else may vary along them."""
    places = {len(shapes[slot]) - axes[slot] for slot in instruction.inputs if slot in axes}
    bounds = [getattr(instruction.operation, name, 0) for name in ("x_min", "x_max")]  # of Clip
    if len(places) != 1 or any(x is not None and np.ndim(x) for x in bounds):
        return None
    (place,) = places  # counted from the right
    others = [shapes[slot] for slot in instruction.inputs if slot not in axes]
    others += [_shape(x) for x in (*instruction.args, *instruction.kwargs.values()) if not isinstance(x, Slot)]
    if any(shape is None or (len(shape) >= place and shape[-place] != 1) for shape in others):
        return None
    return len(shapes[instruction.outputs[0]]) - place


def _shape(value) -> tuple | None:
    """The shape of an argument that is no slot; None if there are slots in it, or where nothing is given."""
    if isinstance(value, str | bool | int | float):
        return ()
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return None if any(isinstance(x, Slot) for x in keras.tree.flatten(list(value))) else np.shape(value)
    return tuple(getattr(value, "shape", ()))


def _merge(instruction, axes, shapes):
    ranks = {len(shapes[slot]) for slot in instruction.inputs}  # of different ones Keras moves axes about
    return _elementwise(instruction._replace(args=(), kwargs={}), axes, shapes) if len(ranks) == 1 else None


def _activation(instruction, axes, shapes):
    function = instruction.operation.activation
    name = getattr(function, "__name__", "")
    if function not in (getattr(keras.activations, name, None), *OWN_ACTIVATIONS.values()):
        return None  # of one's own
    first = _first(instruction, axes, shapes)
    along_time = name in (*SOFTMAXES, "glu") and first is not None and first[1] == first[2] - 1
    return None if first is None or along_time else first[1]


def _dense(instruction, axes, shapes):
    first = _first(instruction, axes, shapes)
    return first[1] if first is not None and first[1] < first[2] - 1 else None


def _embedding(instruction, axes, shapes):
    """Vectors of ids, and, with `reverse`, the product with the table."""
    rule = _dense if instruction.kwargs.get("reverse") or len(instruction.args) > 1 else _same
    return rule(instruction, axes, shapes)


def _own_axes(instruction, axes, shapes, name: str = "axis"):
    """Of one sequence, along axes that the operation names and of which none is the time axis."""
    first = _first(instruction, axes, shapes)
    along = getattr(instruction.operation, name)
    if first is None or along is None or isinstance(along, bool) or instruction.kwargs.get("training"):
        return None
    _, axis, rank = first
    along = [x % rank for x in (along if isinstance(along, list | tuple) else [along])]
    return None if axis in along or 0 in along else axis


def _softmax(instruction, axes, shapes):
    """As a layer it takes a mask beside its input."""
    return _own_axes(instruction, axes, shapes) if len(instruction.inputs) == 1 else None


def _reduction(instruction, axes, shapes):
    axis = _own_axes(instruction, axes, shapes)
    if axis is None or getattr(instruction.operation, "keepdims", False):
        return axis
    rank, along = len(shapes[instruction.inputs[0]]), instruction.operation.axis
    return axis - sum(x % rank < axis for x in (along if isinstance(along, list | tuple) else [along]))


def _joined(instruction, axes, shapes):
    """Sequences side by side: all are sequences, and it is not in time that they are joined."""
    if any(slot not in axes for slot in instruction.inputs):
        return None
    kinds = {(axes[slot], len(shapes[slot])) for slot in instruction.inputs}
    parts = instruction.args[0]
    if len(kinds) != 1 or isinstance(parts, Slot) or not all(isinstance(x, Slot) for x in parts):
        return None
    ((axis, rank),) = kinds
    stacked = type(instruction.operation).__name__ == "Stack"
    along = instruction.operation.axis % (rank + stacked)
    if along == 0 or (along == axis and not stacked):
        return None
    return axis + (stacked and along <= axis)


def _expand(instruction, axes, shapes):
    first = _first(instruction, axes, shapes)
    along = instruction.operation.axis
    if first is None or not isinstance(along, int):
        return None
    along = along % (first[2] + 1)
    return first[1] + (along <= first[1]) if along else None


def _squeeze(instruction, axes, shapes):
    axis = _own_axes(instruction, axes, shapes)
    if axis is None:
        return None
    rank, along = len(shapes[instruction.inputs[0]]), instruction.operation.axis
    return axis - sum(x % rank < axis for x in (along if isinstance(along, list | tuple) else [along]))


def _transpose(instruction, axes, shapes):
    first, order = _first(instruction, axes, shapes), instruction.operation.axes
    if first is None or order is None:
        return None
    order = [x % first[2] for x in order]
    return order.index(first[1]) if order[0] == 0 else None


def _swap(instruction, axes, shapes):
    first, operation = _first(instruction, axes, shapes), instruction.operation
    if first is None:
        return None
    one, other = operation.axis1 % first[2], operation.axis2 % first[2]
    if 0 in (one, other) and one != other:
        return None  # the rows
    return {one: other, other: one}.get(first[1], first[1])


def _item(instruction, axes, shapes):
    """x[key]: the whole of the time axis, and of the rows, is taken."""
    first = _first(instruction, axes, shapes)
    key = instruction.kwargs.get("key", instruction.args[1] if len(instruction.args) > 1 else None)
    if first is None:
        return None
    key = list(key) if isinstance(key, tuple) else [key]
    if not all(x is None or x is Ellipsis or isinstance(x, slice | int) and not isinstance(x, bool) for x in key):
        return None
    _, axis, rank = first
    missing = [slice(None)] * (rank - sum(x is not None and x is not Ellipsis for x in key))
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    key[at : at + 1] = missing
    place = result = 0  # in the input, in the output
    for part in key:
        if part is None:
            result += 1
            continue
        whole = isinstance(part, slice) and part == slice(None)
        if (place in (0, axis) and not whole) or (place == 0 and result):
            return None
        if place == axis:
            return result
        place, result = place + 1, result + isinstance(part, slice)
    return None


def _matmul(instruction, axes, shapes):
    """A sequence of vectors times a matrix that is the same for all."""
    first = _first(instruction, axes, shapes)
    if first is None or not isinstance(instruction.args[0], Slot) or instruction.args[0].index != instruction.inputs[0]:
        return None
    other = instruction.args[1] if len(instruction.args) > 1 else instruction.kwargs.get("x2")
    shape = shapes[other.index] if isinstance(other, Slot) else _shape(other)
    alone = len(instruction.inputs) == 1 and shape is not None and len(shape) == 2
    return first[1] if alone and first[1] < first[2] - 1 else None


def _einsum(instruction, axes, shapes):
    """The letter of time is the same in all sequences, in nothing else, and in the result."""
    subscripts = instruction.operation.subscripts.replace(" ", "")
    operands = instruction.args
    if "." in subscripts or "->" not in subscripts:
        return None
    terms, result = subscripts.split("->")
    letters, others = set(), set()
    for term, operand in zip(terms.split(","), operands, strict=True):
        if isinstance(operand, Slot) and operand.index in axes:
            letters.add(term[axes[operand.index]])
            if term.count(term[axes[operand.index]]) > 1 or axes[operand.index] == 0 or result[:1] != term[0]:
                return None
        else:
            others.update(term)
    if len(letters) != 1 or letters & others:
        return None
    return result.find(*letters) if result.count(*letters) == 1 else None


def _einsum_dense(instruction, axes, shapes):
    operation = instruction.operation
    equation = operation.equation.replace(" ", "")
    first = _first(instruction, axes, shapes)
    if first is None or "." in equation:
        return None
    terms, result = equation.split("->")
    term, kernel = terms.split(",")
    letter = term[first[1]]
    if letter in kernel or result.count(letter) != 1 or result[0] != term[0]:
        return None
    bias = operation.bias_axes or ""
    return None if letter in bias else result.index(letter)


def _one_hot(instruction, axes, shapes):
    first = _first(instruction, axes, shapes)
    return first[1] if first is not None and instruction.operation.axis in (-1, first[2]) else None


_LAYER_RULES = {
    **dict.fromkeys(POINTWISE_LAYERS, _same),
    **dict.fromkeys(MERGES, _merge),
    **dict.fromkeys(DENSE_LAYERS, _dense),
    **dict.fromkeys(NORMALIZATIONS, _own_axes),
    LAYERS.Activation: _activation,
    LAYERS.Softmax: _softmax,
    LAYERS.Concatenate: _joined,
    LAYERS.EinsumDense: _einsum_dense,
    LAYERS.Embedding: _same,
    TokenEmbedding: _embedding,
}
_OP_RULES = {
    **dict.fromkeys(ELEMENTWISE | CONSTANT, _elementwise),
    **dict.fromkeys(ALONG_AXIS, _own_axes),
    **dict.fromkeys(REDUCTIONS, _reduction),
    "Concatenate": _joined,
    "Einsum": _einsum,
    "ExpandDims": _expand,
    "GetItem": _item,
    "Matmul": _matmul,
    "OneHot": _one_hot,
    "Split": _own_axes,
    "Squeeze": _squeeze,
    "Stack": _joined,
    "Swapaxes": _swap,
    "Transpose": _transpose,
}
