"""A functional model as a list of calls, models within the model resolved."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_transformer._keras import (
    Call,
    get_mask,
    layers_within,
    model_inputs,
    producing_call,
    set_mask,
    takes_training,
)
from keras_transformer.decoding.compiling import failures
from keras_transformer.layers.checks import describe
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.padding_mask import PaddingMask

# Operations that hand ids on as they are, and those that hand on a part of them.
KEEP_IDS = {
    "Adapted",
    "Cast",
    "ConvertToTensor",
    "Copy",
    "ExpandDims",
    "Identity",
    "PaddingMask",
    "Reshape",
    "Squeeze",
    "StopGradient",
}
PASS_IDS = {*KEEP_IDS, "Concatenate", "Flatten", "GetItem", "Split", "Stack", "Swapaxes", "Transpose", "Unstack"}


class Slot(NamedTuple):
    """Stands for a tensor in the arguments of an instruction."""

    index: int  # type: ignore[assignment]  # of a tuple's own method nobody makes use here


class Instruction(NamedTuple):
    """One call: `outputs = operation(*args, **kwargs)`, with slots in place of tensors."""

    operation: Any
    args: tuple
    kwargs: dict
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Adapted:
    """What a model does to a tensor that it is called on: it has the type of the model's input, and the mask given."""

    def __init__(self, name: str, dtype: str):
        self.name = name
        self.dtype = dtype

    def __call__(self, x, mask=None):
        given = get_mask(x) if mask is None else mask
        x = ops.copy(ops.cast(x, self.dtype))
        if given is not None:
            set_mask(x, given)
        return x


class Program:
    """The calls of a functional model in order, models within the model resolved.

    Tensors are numbered: first the model's inputs, then whatever each instruction puts out. What a call of a model
    within the model is given beside its inputs is kept: a `mask` becomes the mask of what it is called on, and
    `training` goes to the layers that it has. A model that is called in another way stays one instruction.

    Attributes:
        input_names, input_dtypes: Of the model's inputs.
        instructions: The calls.
        outputs: The slots of the model's outputs.
        shapes: The symbolic shape of each slot.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.input_names = [x.name for x in model.inputs]
        self.input_dtypes = [keras.backend.standardize_dtype(x.dtype) for x in model.inputs]
        self.instructions: list[Instruction] = []
        self.shapes = [tuple(x.shape) for x in model.inputs]
        self.outputs = self._trace(model.outputs, {id(x): i for i, x in enumerate(model.inputs)})

    def _trace(self, tensors, scope: dict[int, int], training=None) -> list[int]:
        """Append the calls that make `tensors` and are not in `scope` yet, and return the tensors' slots."""
        pending = list(reversed(tensors))
        while pending:
            tensor = pending[-1]
            if id(tensor) in scope:
                pending.pop()
                continue
            call = producing_call(tensor)
            if call is None:
                raise ValueError(f"The tensor '{tensor.name}' does not come from an input of the model.")
            missing = [x for x in call.inputs if id(x) not in scope]
            if missing:
                pending.extend(reversed(missing))
            else:
                self._append(call, scope, training)
        return [scope[id(x)] for x in tensors]

    def _append(self, call: Call, scope: dict[int, int], training) -> None:
        operation, kwargs = call.operation, dict(call.kwargs)
        if training is not None and takes_training(operation):  # as a functional model does it: over what was recorded
            kwargs["training"] = training
        inputs = model_inputs(call)
        if inputs is not None:  # a model within the model: its calls take the place of its own
            inner = self._enter(operation, inputs, kwargs.get("mask"), scope)
            outputs = self._trace(operation.outputs, inner, kwargs.get("training"))
        else:

            def to_slot(value):
                return Slot(scope[id(value)]) if isinstance(value, keras.KerasTensor) else value

            outputs = self._add(
                operation,
                keras.tree.map_structure(to_slot, call.args),
                keras.tree.map_structure(to_slot, kwargs),
                [scope[id(x)] for x in call.inputs],
                [x.shape for x in call.outputs],
            )
        scope.update({id(x): slot for x, slot in zip(call.outputs, outputs, strict=True)})

    def _add(self, operation, args, kwargs, inputs, shapes) -> range:
        """Append an instruction, and return the slots of its outputs."""
        outputs = range(len(self.shapes), len(self.shapes) + len(shapes))
        self.shapes.extend(tuple(shape) for shape in shapes)
        self.instructions.append(Instruction(operation, args, kwargs, tuple(inputs), tuple(outputs)))
        return outputs

    def _enter(self, model, inputs: list, mask, scope: dict[int, int]) -> dict[int, int]:
        """The scope within a model that is called on `inputs`: the slots of its own inputs."""
        masks = [None] * len(inputs) if mask is None else keras.tree.flatten(mask)
        inner = {}
        for own, given, mask in zip(model.inputs, inputs, masks, strict=True):
            slot = scope[id(given)]
            dtype = keras.backend.standardize_dtype(own.dtype)
            carried = mask is None or mask is get_mask(given)
            if not carried or dtype != keras.backend.standardize_dtype(given.dtype):
                arguments = {} if carried else {"mask": Slot(scope[id(mask)])}
                slots = [slot, *(x.index for x in arguments.values())]
                (slot,) = self._add(Adapted(model.name, dtype), (Slot(slot),), arguments, slots, [given.shape])
            inner[id(own)] = slot
        return inner

    def readers(self, slot: int, through: set[str]) -> Iterator[Instruction]:
        """The instructions that read a slot, directly or through operations of the given names. A `PaddingMask` reads
        ids, and hands them on."""
        slots = {slot}
        for instruction in self.instructions:
            if slots.isdisjoint(instruction.inputs):
                continue
            if type(instruction.operation).__name__ in through:
                slots.update(instruction.outputs)
            if type(instruction.operation).__name__ not in through or isinstance(instruction.operation, PaddingMask):
                yield instruction

    def padding_id(self, slot: int) -> int | None:
        """The id that pads the sequences of an input: that of the `PaddingMask` or else of the `TokenEmbedding` which
        reads it, else 0.

        Raises:
            ValueError: If several read it that differ.
        """
        readers = [x.operation for x in self.readers(slot, KEEP_IDS)]
        readers = [x for reader in readers if isinstance(reader, keras.layers.Layer) for x in _with_parts(reader)]
        found = {x.padding_id: x for x in readers if isinstance(x, PaddingMask)}
        found = found or {x.padding_id: x for x in readers if isinstance(x, TokenEmbedding)}
        if len(found) > 1:
            raise ValueError(
                f"The input '{self.input_names[slot]}' is read by embeddings that differ in their padding: "
                + ", ".join(f"{describe(layer)} has padding_id={value}" for value, layer in found.items())
                + ". Give them the same padding_id."
            )
        return next(iter(found), 0)

    def vocabulary_limits(self) -> dict[int, tuple[object, int]]:
        """For each input of token ids, the embedding with the smallest vocabulary that takes it, and its size."""
        limits = {}
        for slot, dtype in enumerate(self.input_dtypes):
            for instruction in self.readers(slot, KEEP_IDS):
                size = table_size(instruction.operation, dtype)
                if size is not None and size < limits.get(slot, (None, size + 1))[1]:
                    limits[slot] = (instruction.operation, size)
        return limits


def _with_parts(layer) -> list:
    return [layer, *layers_within(layer)]


def table_size(operation, dtype: str) -> int | None:
    """The number of ids that an operation takes, if it looks them up in a table; `dtype` is that of what it reads."""
    is_table = isinstance(operation, TokenEmbedding | keras.layers.Embedding)
    if not is_table and not ("int" in dtype and isinstance(operation, keras.layers.Layer)):
        return None
    for name in ("vocabulary_size", "input_dim"):
        size = getattr(operation, name, None)
        if isinstance(size, int) and not isinstance(size, bool):  # of TextVectorization it is a method
            return size
    return None


def run(instructions: list[Instruction], values: dict[int, object]) -> None:
    """Carry out instructions, reading and writing `values` by slot. A failure gets a note that names the operation."""

    def fill(value):
        return values[value.index] if isinstance(value, Slot) else value

    for operation, args, kwargs, _, outputs in instructions:
        args, kwargs = map_slots(fill, args), map_slots(fill, kwargs)
        try:
            results = keras.tree.flatten(operation(*args, **kwargs))
        except failures() as error:
            if not getattr(error, "__notes__", None):
                error.add_note(f"(in {describe(operation)})")
            raise
        values.update(zip(outputs, results, strict=True))


def map_slots(function, structure):
    """`function` of each leaf; slots, which are tuples, count as leaves."""
    if isinstance(structure, Slot):
        return function(structure)
    if isinstance(structure, dict):
        return {key: map_slots(function, value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(map_slots(function, value) for value in structure)
    return function(structure)


_LOCK = threading.Lock()
_SETTINGS = {}  # of the layers within `without_cudnn` now, by id: how often, the layer, its own setting


@contextlib.contextmanager
def without_cudnn(model: keras.Model) -> Iterator[None]:
    """Let Keras' recurrent layers take their plain loops. XLA cannot compile cuDNN's, and what is exported on a machine
    with a GPU must run on one without.

    Several threads may be in it at once: the last to leave gives the layers their settings back.
    """
    fused = [x for x in layers_within(model) if isinstance(x, keras.layers.LSTM | keras.layers.GRU)]
    with _LOCK:
        for layer in fused:
            count, _, setting = _SETTINGS.get(id(layer), (0, layer, layer.use_cudnn))
            _SETTINGS[id(layer)] = (count + 1, layer, setting)
            layer.use_cudnn = False
    try:
        yield
    finally:
        with _LOCK:
            for layer in fused:
                count, _, setting = _SETTINGS.pop(id(layer))
                if count > 1:
                    _SETTINGS[id(layer)] = (count - 1, layer, setting)
                else:
                    layer.use_cudnn = setting
