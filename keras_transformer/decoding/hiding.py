"""Which tokens the masks of a model hide: while decoding, nothing but padding may be hidden.

The cache keeps no masks, since the tokens that it holds are never padding. A mask that hides others has an effect on
the whole sequence, and none token by token.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer._keras import get_mask
from keras_transformer.decoding.comparison import as_array
from keras_transformer.decoding.compiling import evaluate
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.participants import given_mask, uses_mask
from keras_transformer.decoding.positionwise import Axes
from keras_transformer.decoding.program import Adapted, Instruction, run
from keras_transformer.layers.checks import describe

OF_VALUES = "whatever its values tell"
PART = 8192  # ids that are looked at in one go


class Hiding:
    """Follows the masks of a model from operation to operation.

    Args:
        graph: The model, split.
        masks: The masks that Keras put on the tensors of some run, by slot.
        axes: The time axis of what is a sequence, by slot; filled as the model is gone through.
        makers: The instruction that makes each slot of the target side; filled likewise.
    """

    def __init__(self, graph: Graph, masks: dict[int, object], axes: Axes, makers: dict[int, Instruction]):
        self.graph = graph
        self.masks = masks
        self.axes = axes
        self.makers = makers
        self._origins = {}  # by slot: where the mask on it comes from
        self._reasons = {}  # by origin: what is wrong with it

    def follow(self, instruction: Instruction, *, keeps_state: bool) -> None:
        """Raise ValueError where a layer is to hide other tokens than padding.

        Args:
            instruction: The next one.
            keeps_state: Whether a layer that is not ours was found to take part in decoding.
        """
        origins = list(dict.fromkeys(x for slot in instruction.inputs for x in self._origins.get(slot, ())))
        explicit = given_mask(instruction)
        if explicit in self.graph.dependent:
            origins.append(_Origin("an argument", explicit, None))
        used = uses_mask(instruction.operation) or keeps_state
        reasons = [reason for reason in map(self._reason, origins) if reason] if used else []
        if reasons:
            raise ValueError(
                f"{describe(instruction.operation)} of the model '{self.graph.model.name}' looks at tokens through a "
                f"mask that is not the padding's: {reasons[0]}. A key/value cache keeps no such mask. Build the model "
                "for generation without it, or use Generator(..., cache=False), which runs the full causal model at "
                "every step."
            )
        if any(slot in self.masks for slot in instruction.outputs):
            origins = origins if self._hands_on(instruction, explicit) else [
                _Origin(describe(instruction.operation), instruction.inputs[0], instruction)
            ]  # fmt: skip
            self._origins.update(dict.fromkeys(instruction.outputs, origins))

    def is_padding(self, slot: int) -> bool:
        """Whether a slot is a mask that hides padding and nothing else."""
        return slot in self.graph.dependent and self._reason(_Origin("an argument", slot, None)) is None

    def _hands_on(self, instruction: Instruction, explicit: int | None) -> bool:
        """Whether the mask on the output of an operation is that of its input or its argument, and not its own."""
        operation = instruction.operation
        if isinstance(operation, keras.layers.Masking):
            return False
        if isinstance(operation, Adapted) or explicit is not None:
            return True
        before = [self.masks[slot] for slot in instruction.inputs if slot in self.masks]
        after = [self.masks[slot] for slot in instruction.outputs if slot in self.masks]
        known = type(operation).__module__.split(".")[0] in ("keras", "keras_transformer")
        return bool(before) and (known or all(any(x is y for y in before) for x in after))

    def _reason(self, origin: "_Origin") -> str | None:
        """What is wrong with the masks of this origin, if anything."""
        if origin not in self._reasons:
            hidden = self._hides(origin)
            self._reasons[origin] = f"it comes from {origin.name} and hides {hidden}" if hidden else None
        return self._reasons[origin]

    def _hides(self, origin: "_Origin") -> str | None:
        """What masks of this origin hide beside padding, if anything."""
        maker = origin.maker
        if self.graph.takes_values:
            return OF_VALUES
        needed, pending = set(), [origin.slot]
        while pending:
            current = pending.pop()
            before = self.makers.get(current)
            if current == self.graph.target or id(before) in needed:
                continue
            if before is None or getattr(before.operation, "weights", None) or current not in self.axes:
                return OF_VALUES
            needed.add(id(before))
            pending += before.inputs
        if maker is None and origin.slot == self.graph.target:
            return OF_VALUES
        if maker is not None and (
            isinstance(maker.operation, keras.layers.Masking) or set(maker.inputs) != {origin.slot}
        ):
            return OF_VALUES
        instructions = [x for x in self.graph.decoder if id(x) in needed]
        size = self.graph.vocabulary_limits().get(self.graph.target, (None, self.graph.vocabulary_size))[1]
        layer = None if maker is None else maker.operation

        def of_ids(ids):
            values = {self.graph.target: ids}
            run(instructions, values)
            mask = values[origin.slot] if layer is None else layer.compute_mask(values[origin.slot], None)
            if mask is None:  # it is made within the layer's call
                run([maker], values)
                mask = get_mask(values[maker.outputs[0]])
            return mask

        hidden = set()
        for start in range(0, size, PART):
            ids = np.arange(start, min(start + PART, size), dtype="int32")
            visible = as_array(evaluate(of_ids, [], ops.convert_to_tensor(ids[:, None]))).astype(bool)
            hidden.update(ids[~visible.reshape(len(ids), -1).all(axis=1)].tolist())
        hidden.discard(self.graph.padding_id(self.graph.target))
        return f"the ids {sorted(hidden)[:5]}" if hidden else None


class _Origin(NamedTuple):
    """Where a mask comes from: its name, the slot that it is or is made of, and the instruction that makes it."""

    name: str
    slot: int
    maker: Instruction | None

    def __hash__(self):
        return hash((self.name, self.slot))

    def __eq__(self, other):
        return self[:2] == other[:2] and self.maker is other.maker
