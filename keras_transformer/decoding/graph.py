"""A functional model as a list of calls, split into what depends on the target tokens and what does not."""

import contextlib
from typing import NamedTuple

import keras

from keras_transformer._keras import Call, get_mask, is_functional, layers_within, producing_call, set_mask
from keras_transformer.layers.checks import describe
from keras_transformer.layers.embedding import TokenEmbedding


class Slot(NamedTuple):
    """Stands for a tensor in the arguments of an instruction."""

    index: int


class Instruction(NamedTuple):
    """One call: `outputs = operation(*args, **kwargs)`, with slots in place of tensors."""

    operation: object
    args: tuple
    kwargs: dict
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Program:
    """The calls of a functional model in order, models within the model resolved.

    Tensors are numbered: first the model's inputs, then whatever each instruction puts out.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.input_names = [x.name for x in model.inputs]
        self.instructions: list[Instruction] = []
        self._count = len(model.inputs)
        self.outputs = self._trace(model.outputs, {id(x): i for i, x in enumerate(model.inputs)})

    def _trace(self, tensors, scope: dict[int, int]) -> list[int]:
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
                self._append(call, scope)
        return [scope[id(x)] for x in tensors]

    def _append(self, call: Call, scope: dict[int, int]) -> None:
        operation = call.operation
        if is_functional(operation):  # a model within the model: its calls take the place of its own
            inner = {id(x): scope[id(y)] for x, y in zip(operation.inputs, _model_inputs(call), strict=True)}
            outputs = self._trace(operation.outputs, inner)
        else:

            def to_slot(value):
                return Slot(scope[id(value)]) if isinstance(value, keras.KerasTensor) else value

            outputs = range(self._count, self._count + len(call.outputs))
            self._count += len(call.outputs)
            self.instructions.append(
                Instruction(
                    operation,
                    keras.tree.map_structure(to_slot, call.args),
                    keras.tree.map_structure(to_slot, call.kwargs),
                    tuple(scope[id(x)] for x in call.inputs),
                    tuple(outputs),
                )
            )
        scope.update({id(x): slot for x, slot in zip(call.outputs, outputs, strict=True)})

    def padding_id(self, slot: int) -> int | None:
        """The id that pads the sequences of an input: that of the `TokenEmbedding` which reads it, else 0.

        Raises:
            ValueError: If several read it that differ.
        """
        found, slots = {}, {slot}
        for instruction in self.instructions:
            if slots.isdisjoint(instruction.inputs):
                continue
            reader = instruction.operation
            layers = [reader, *layers_within(reader)] if isinstance(reader, keras.layers.Layer) else []
            found.update({layer.padding_id: layer for layer in layers if isinstance(layer, TokenEmbedding)})
            if type(reader).__name__ == "Cast":
                slots.update(instruction.outputs)
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
        for instruction in self.instructions:
            size = getattr(instruction.operation, "vocabulary_size", getattr(instruction.operation, "input_dim", None))
            for slot in instruction.inputs:
                if size is not None and slot < len(self.input_names):
                    limits[slot] = min(
                        limits.get(slot, (None, size + 1)), (instruction.operation, size), key=lambda x: x[1]
                    )
        return limits


class Graph(Program):
    """A `Program` in two parts: what depends on the target tokens, and what does not.

    `encode` runs, once a sequence, what does not depend on the target input: the encoder. `decode` runs the rest,
    once a step. What the second part needs of the first is the memory: a flat dict of tensors, padding masks included.

    Args:
        model: A functional `keras.Model`.
        target_input: Name of the input that takes the target tokens. Default: the last.

    Raises:
        ValueError: If the model is not functional, has no such input, does not have exactly one output of shape
            (batch, length, vocabulary), or its output does not depend on the target input.
    """

    def __init__(self, model: keras.Model, target_input: str | None = None):
        if not is_functional(model):
            raise ValueError(
                f"Generator takes a functional model, keras.Model(inputs, outputs), got {type(model).__name__} "
                f"'{getattr(model, 'name', '')}'. Wrap a subclassed model: keras.Model(inputs, model(inputs))."
            )
        names = [x.name for x in model.inputs]
        if target_input is None:
            target_input = names[-1]
        if target_input not in names:
            raise ValueError(f"The model has no input '{target_input}' for target_input; it has {names}.")
        shapes = [x.shape for x in model.outputs]
        if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][-1] is None:
            raise ValueError(
                f"Generator takes a model with one output of shape (batch, length, vocabulary), got {shapes}."
            )
        super().__init__(model)
        self.vocabulary_size = shapes[0][-1]
        self.target = names.index(target_input)
        (self.output,) = self.outputs
        self._split()

    def _split(self) -> None:
        dependent = {self.target}
        self.encoder, self.decoder = [], []
        for instruction in self.instructions:
            if dependent.intersection(instruction.inputs):
                dependent.update(instruction.outputs)
                self.decoder.append(instruction)
            else:
                self.encoder.append(instruction)
        if self.output not in dependent:
            raise ValueError(
                f"The model's output does not depend on its input '{self.input_names[self.target]}', so there is "
                f"nothing to generate. Name the decoder's input with target_input, one of {self.input_names}."
            )
        used = {slot for instruction in self.decoder for slot in instruction.inputs}
        self.boundary = sorted(used - dependent)
        self.features = self._find_features(dependent)

    def _find_features(self, dependent: set[int]) -> int:
        """The slot of what the logits are made from: the target-side input of the last operation that has weights."""
        makers = {slot: instruction for instruction in self.decoder for slot in instruction.outputs}
        slot = self.output
        while slot in makers:
            instruction = makers[slot]
            slot = next(x for x in instruction.inputs if x in dependent)
            if getattr(instruction.operation, "weights", None):
                break
        return slot

    def encode(self, sources: dict[int, object]) -> dict[str, object]:
        """Run the part that does not depend on the target.

        Args:
            sources: A tensor for each input slot but the target's.

        Returns:
            The memory: tensors, and padding masks where there are any.
        """
        values = dict(sources)
        with _without_cudnn(self.model):
            run(self.encoder, values)
        memory = {}
        for slot in self.boundary:
            memory[f"memory/{slot}"] = values[slot]
            mask = get_mask(values[slot])
            if mask is not None:
                memory[f"memory/{slot}/mask"] = mask
        return memory

    def decode(self, tokens, memory: dict[str, object]) -> dict[int, object]:
        """Run the part that depends on the target tokens (B, T), and return all its values; `output` is the logits'."""
        values = {self.target: tokens}
        for slot in self.boundary:
            tensor = memory[f"memory/{slot}"]
            if f"memory/{slot}/mask" in memory:
                set_mask(tensor, memory[f"memory/{slot}/mask"])
            values[slot] = tensor
        with _without_cudnn(self.model):
            run(self.decoder, values)
        return values


def run(instructions: list[Instruction], values: dict[int, object]) -> None:
    """Carry out instructions, reading and writing `values` by slot."""

    def fill(value):
        return values[value.index] if isinstance(value, Slot) else value

    for operation, args, kwargs, _, outputs in instructions:
        args, kwargs = _map_slots(fill, args), _map_slots(fill, kwargs)
        results = keras.tree.flatten(operation(*args, **kwargs))
        values.update(zip(outputs, results, strict=True))


@contextlib.contextmanager
def _without_cudnn(model: keras.Model):
    """Let Keras' recurrent layers take their plain loops. XLA cannot compile cuDNN's, and what is exported on a machine
    with a GPU must run on one without."""
    fused = [x for x in layers_within(model) if isinstance(x, keras.layers.LSTM | keras.layers.GRU)]
    settings = [layer.use_cudnn for layer in fused]
    for layer in fused:
        layer.use_cudnn = False
    try:
        yield
    finally:
        for layer, setting in zip(fused, settings, strict=True):
            layer.use_cudnn = setting


def _map_slots(function, structure):
    """`function` of each leaf; slots, which are tuples, count as leaves."""
    if isinstance(structure, Slot):
        return function(structure)
    if isinstance(structure, dict):
        return {key: _map_slots(function, value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(_map_slots(function, value) for value in structure)
    return function(structure)


def _model_inputs(call: Call) -> list:
    """The tensors that a call hands to a functional model, in the order of its inputs."""
    inputs = call.args[0] if call.args else call.kwargs["inputs"]
    model = call.operation
    if isinstance(inputs, dict) and not isinstance(model.input, dict):
        return [inputs[x.name] for x in model.inputs]
    return keras.tree.flatten(inputs)
