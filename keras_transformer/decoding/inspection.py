"""What each operation between target tokens and logits does along time, and whether decoding allows it.

An operation is known (`positionwise.py`, `participants.py`), or it is tried by itself (`trial.py`), alone or, where it
loses the time axis, together with those that bring it back: on random inputs that reach the whole length, with random
weights. Neither the values that weights happen to have nor what comes before or after can hide what it does.
"""

import keras

from keras_transformer._keras import get_mask
from keras_transformer.decoding.compiling import failures
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.hiding import Hiding
from keras_transformer.decoding.participants import arguments, output_axes, slots_of, takes_part
from keras_transformer.decoding.positionwise import time_axes
from keras_transformer.decoding.program import Instruction
from keras_transformer.decoding.trial import Mixed, Trial
from keras_transformer.layers.checks import describe
from keras_transformer.layers.class_token import ClassToken

REMEDY = (
    "In the path of the target tokens, let only keras_transformer's layers look at other positions: attention with "
    "causal=True, and RecurrentDecoderLayer in place of Keras' recurrent layers. Or use Generator(..., cache=False), "
    "which runs the full causal model at every step."
)
CAUSAL_REMEDY = (
    "so no text can be generated from it. Use DecoderLayer or MultiHeadSelfAttention(..., causal=True) on the target "
    "side."
)


class Seen:
    """What a run of the whole model on short sequences showed.

    Attributes:
        values: Tensors by slot, of the target side and the memory.
        shapes: Their shapes.
        masks: The padding masks where there were any, to be compared by identity: under JAX they have no values.
        memory: Tensors of the memory by slot, with their padding masks.
        encoded: The memory, as the encoder gave it.
    """

    def __init__(self):
        self.values, self.shapes, self.masks, self.memory, self.encoded = {}, {}, {}, {}, {}

    def look(self, values: dict) -> None:
        """Note what can be seen while the run is traced."""
        self.shapes = {slot: tuple(x.shape) for slot, x in values.items()}
        self.masks = {slot: get_mask(x) for slot, x in values.items() if get_mask(x) is not None}


class Inspection:
    """Goes through the target side of a model, operation by operation.

    Args:
        graph: The model, split.
        max_length: The longest sequence.
        seen: What a run of the whole model showed.
        cached: Whether the model is to be decoded token by token; if not, whether it is causal is asked.
    """

    def __init__(self, graph: Graph, max_length: int, seen: Seen, *, cached: bool):
        self.graph = graph
        self.max_length = max_length
        self.seen = seen
        self.cached = cached
        self.axes = {graph.target: 1}  # the time axis of what depends on the target and has one
        self.derived = set()  # what follows from ids by no weights, and what is tried together with what makes it
        self.makers = {}  # the instruction that makes each of what depends on the target
        self.hiding = Hiding(graph, seen.masks, self.axes, self.makers)

    def run(self) -> None:
        """Raise ValueError, with the name of an operation, unless decoding allows all of them."""
        for instruction in self.graph.decoder:
            self.makers.update(dict.fromkeys(instruction.outputs, instruction))
            for slot, axis in zip(instruction.outputs, self._judge(instruction), strict=True):
                if axis is not None:
                    self.axes[slot] = axis
            if self._is_derived(instruction):
                self.derived.update(instruction.outputs)
            if self.cached:
                self.hiding.follow(instruction, keeps_state=self.keeps_state)
        if self.axes.get(self.graph.output) != 1:
            self._refuse(self._origin(self.makers[self.graph.output]))

    def _judge(self, instruction: Instruction) -> tuple[int | None, ...]:
        """The time axis of each output; None where there is none."""
        self.keeps_state = False
        if isinstance(instruction.operation, ClassToken):
            raise ValueError(
                f"{describe(instruction.operation)} of the model '{self.graph.model.name}' puts a vector before the "
                "target tokens, so that no output stands where its token does. It belongs to an encoder."
            )
        sequences = [slot for slot in instruction.inputs if slot in self.graph.dependent]
        if all(slot in self.axes for slot in sequences):
            found = time_axes(instruction, self.axes, self.seen.shapes)
            if found is None and takes_part(instruction):
                found = output_axes(instruction, self.axes, self.graph.dependent, self.seen.shapes, cached=self.cached)
                if found is None:
                    self._check_arguments(instruction)
            if found is not None:
                return found
        elif not any(self._may_have_time(slot) for slot in instruction.outputs):
            return (None,) * len(instruction.outputs)  # lost before, and not back yet
        return self._try(instruction)

    def _is_derived(self, instruction: Instruction) -> bool:
        """Whether an instruction makes something of ids alone, which no random numbers are like."""
        if self.graph.takes_values:
            return False
        inputs = {slot for slot in instruction.inputs if slot in self.graph.dependent}
        has_weights = getattr(instruction.operation, "weights", None)
        return not has_weights and not takes_part(instruction) and inputs <= {self.graph.target, *self.derived}

    def _may_have_time(self, slot: int) -> bool:
        return self.seen.shapes[self.graph.target][1] in self.seen.shapes[slot][1:]

    def _check_arguments(self, instruction: Instruction) -> None:
        """Raise ValueError where one of our layers is given what no cache can keep; whatever else, a trial finds."""
        layer, given = instruction.operation, arguments(instruction)
        memory = [name for name in ("memory", "initial_state") if self._changes(given.get(name))]
        if memory and self.cached:
            raise ValueError(
                f"{describe(layer)} of the model '{self.graph.model.name}' is given a {memory[0]} that depends on the "
                f"target tokens. A memory is kept from the first step on, as it was then. {REMEDY}"
            )
        if not self.cached and not getattr(layer, "causal", True):
            self._refuse(instruction)

    def _changes(self, value) -> bool:
        return any(slot in self.graph.dependent for slot in slots_of(value))

    def _try(self, instruction: Instruction) -> tuple[int | None, ...]:
        """The time axis of each output, once a trial has shown that decoding allows what the region does."""
        known = {slot: axis for slot, axis in self.axes.items() if slot not in self.derived}
        trial = self._trial(self._region(instruction, known), instruction.outputs, known)
        try:
            axes = trial.find_axes(any_length=self.cached)
            if all(axis is None for axis in axes):
                return axes
            if self.cached:
                trial.check_steps(axes)
            else:
                self._check_causal(trial, axes)
        except Mixed:
            self._refuse(self._origin(instruction))
        except failures() as error:
            self._refuse(self._origin(instruction), error)
        self.keeps_state = trial.keeps_state
        return axes

    def _trial(self, region: list[Instruction], outputs: tuple[int, ...], axes: dict | None = None) -> Trial:
        axes = self.axes if axes is None else axes
        inputs = {slot for step in region for slot in step.inputs if slot in axes}
        return Trial(
            self.graph,
            self.max_length,
            region,
            outputs,
            axes=axes,
            seen=self.seen.values,
            memory=self.seen.memory,
            masked=set(self.seen.masks),
            paddings={slot for slot in inputs if self._is_boolean(slot) and self.hiding.is_padding(slot)},
        )

    def _is_boolean(self, slot: int) -> bool:
        return keras.backend.standardize_dtype(self.seen.values[slot].dtype) == "bool"

    def _check_causal(self, trial: Trial, axes: tuple[int | None, ...]) -> None:
        """By itself, or with all that goes before it: zeros above the diagonal of attention written by hand, say."""
        try:
            trial.check_causal(axes)
        except Mixed:
            start = {self.graph.target: 1}
            region = self._region(self.makers[trial.outputs[0]], start)
            self._trial(region, trial.outputs, start).check_causal(axes)

    def _region(self, instruction: Instruction, axes: dict | None = None) -> list[Instruction]:
        """The instruction and, where its inputs are none of the sequences known (of the slots in `axes`), those that
        made them."""
        axes = self.axes if axes is None else axes
        found, pending = {}, [instruction]
        while pending:
            current = pending.pop()
            if id(current) in found:
                continue
            found[id(current)] = current
            pending += [
                self.makers[slot] for slot in current.inputs if slot in self.graph.dependent and slot not in axes
            ]
        return [x for x in self.graph.decoder if id(x) in found]

    def _origin(self, instruction: Instruction) -> Instruction:
        """The first instruction of the region: where the time axis was lost."""
        return self._region(instruction)[0]

    def _refuse(self, instruction: Instruction, error: Exception | None = None) -> None:
        name, model = describe(instruction.operation), self.graph.model.name
        reason = f" ({error} {' '.join(getattr(error, '__notes__', []))})" if error is not None and str(error) else ""
        if self.cached:
            raise ValueError(
                f"The layer {name} of the model '{model}' mixes time steps and keeps nothing of the earlier ones while "
                "decoding: by itself, token by token, it gives another output than on a whole sequence"
                f"{reason}. {REMEDY}"
            ) from error
        raise ValueError(
            f"The model '{model}' is not causal: what {name} puts out at a position depends on later ones, or is not "
            f"one output for each token{reason}, {CAUSAL_REMEDY}"
        ) from error
