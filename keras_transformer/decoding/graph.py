"""A functional model in two parts: what depends on the target tokens and what does not."""

import keras
from keras import ops

from keras_transformer._keras import get_mask, is_functional, set_mask
from keras_transformer.decoding.program import Program, run, without_cudnn
from keras_transformer.decoding.target import find_target


class Graph(Program):
    """A `Program` in two parts: what depends on the target tokens, and what does not.

    `encode` runs, once a sequence, what does not depend on the target input: the encoder. `decode` runs the rest,
    once a step. What the second part needs of the first is the memory: a flat dict of tensors, padding masks included.

    Args:
        model: A functional `keras.Model`.
        target_input: Name of the input that takes the target tokens. Default: what `find_target` finds.
        owner: Who asks, for messages.

    Attributes:
        takes_values: Whether the target is no ids (B, T) but a series of values (B, T, C).

    Raises:
        ValueError: If the model is not functional, has no such input, does not have exactly one output of shape
            (batch, length, vocabulary), or its output does not depend on the target input.
    """

    def __init__(self, model: keras.Model, target_input: str | None = None, *, owner: str = "Generator"):
        if not is_functional(model):
            raise ValueError(
                f"{owner} takes a functional model, keras.Model(inputs, outputs), got {type(model).__name__} "
                f"'{getattr(model, 'name', '')}'. Wrap a subclassed model: keras.Model(inputs, model(inputs))."
            )
        names = [x.name for x in model.inputs]
        if target_input is not None and target_input not in names:
            raise ValueError(f"The model has no input '{target_input}' for target_input; it has {names}.")
        shapes = [x.shape for x in model.outputs]
        if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][-1] is None:
            raise ValueError(
                f"{owner} takes a model with one output of shape (batch, length, vocabulary), got {shapes}."
            )
        super().__init__(model)
        self.vocabulary_size = shapes[0][-1]
        self.target = find_target(self, model) if target_input is None else names.index(target_input)
        (self.output,) = self.outputs
        self.takes_values = len(self.shapes[self.target]) == 3 and "float" in self.input_dtypes[self.target]
        self._ids = set(self.vocabulary_limits())
        self._split()

    def _split(self) -> None:
        self.dependent = {self.target}
        self.encoder, self.decoder = [], []
        for instruction in self.instructions:
            if self.dependent.intersection(instruction.inputs):
                self.dependent.update(instruction.outputs)
                self.decoder.append(instruction)
            else:
                self.encoder.append(instruction)
        if self.output not in self.dependent:
            raise ValueError(
                f"The model's output does not depend on its input '{self.input_names[self.target]}', so there is "
                f"nothing to generate. Name the decoder's input with target_input, one of {self.input_names}."
            )
        used = {slot for instruction in self.decoder for slot in instruction.inputs}
        self.boundary = sorted(used - self.dependent)
        self.features = self._find_features()

    def _find_features(self) -> int | None:
        """The slot of what the logits are made from: the target-side input of the last operation that has weights.
        None if that is no sequence of vectors, as where one layer makes logits of tokens."""
        makers = {slot: instruction for instruction in self.decoder for slot in instruction.outputs}
        slot = self.output
        while slot in makers:
            instruction = makers[slot]
            slot = next(x for x in instruction.inputs if x in self.dependent)
            if getattr(instruction.operation, "weights", None):
                break
        return slot if len(self.shapes[slot]) == 3 else None

    def _as_input(self, slot: int, tensor):
        """A tensor as the model takes it at its input. Ids keep their type: they are exact in it."""
        dtype = self.input_dtypes[slot]
        same = keras.backend.standardize_dtype(tensor.dtype) == dtype
        return tensor if slot in self._ids or same or dtype == "string" else ops.cast(tensor, dtype)

    def encode(self, sources: dict[int, object]) -> dict[str, object]:
        """Run the part that does not depend on the target.

        Args:
            sources: A tensor for each input slot but the target's.

        Returns:
            The memory: tensors, and padding masks where there are any.
        """
        values = {slot: self._as_input(slot, x) for slot, x in sources.items()}
        with without_cudnn(self.model):
            run(self.encoder, values)
        memory = {}
        for slot in self.boundary:
            memory[f"memory/{slot}"] = values[slot]
            mask = get_mask(values[slot])
            if mask is not None:
                memory[f"memory/{slot}/mask"] = mask
        return memory

    def recall(self, memory: dict) -> dict:
        """The values of the memory by slot, with their padding masks."""
        values = {}
        for slot in self.boundary:
            values[slot] = memory[f"memory/{slot}"]
            if f"memory/{slot}/mask" in memory:
                set_mask(values[slot], memory[f"memory/{slot}/mask"])
        return values

    def decode(self, tokens, memory: dict) -> dict:
        """Run the part that depends on the target tokens (B, T), and return all its values; `output` is the logits'."""
        values = {self.target: self._as_input(self.target, tokens), **self.recall(memory)}
        with without_cudnn(self.model):
            run(self.decoder, values)
        return values
