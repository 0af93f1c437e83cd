"""The layers of this package that take part in decoding, and what they must not be given there.

Their arguments decide: the sequence itself, a memory that no target token changes, and no mask but the padding's. What
is called otherwise is not known to be right, and `inspection.py` tries it.
"""

import inspect

import keras

from keras_transformer._keras import layers_within
from keras_transformer.decoding.positionwise import Axes, Shapes
from keras_transformer.decoding.program import Instruction, Slot
from keras_transformer.layers.attention import MultiHeadSelfAttention
from keras_transformer.layers.cross_attention import MultiHeadCrossAttention
from keras_transformer.layers.decoder import DecoderLayer
from keras_transformer.layers.positional_encoding import LearnedPositionalEncoding, PositionalEncoding
from keras_transformer.layers.recurrent import DotAttention, RecurrentDecoderLayer

OURS = "keras_transformer.layers."
TAKE_PART = (
    MultiHeadSelfAttention,
    MultiHeadCrossAttention,
    DecoderLayer,
    RecurrentDecoderLayer,
    DotAttention,
    PositionalEncoding,
    LearnedPositionalEncoding,
)
TAKE_PARTS = (MultiHeadSelfAttention, MultiHeadCrossAttention, DecoderLayer)  # norms, positions, ... of the user's own
USE_MASK = (MultiHeadSelfAttention, DecoderLayer, RecurrentDecoderLayer)  # of the target; the others need none
OF_THE_MEMORY = ("memory", "memory_mask", "memory_segment_ids", "initial_state")
OF_THE_QUERIES = {MultiHeadCrossAttention: "attention_mask", DecoderLayer: "memory_attention_mask"}  # (..., T, S)
NOT_KEPT = ("segment_ids", "attention_mask", "positions")


def takes_part(instruction: Instruction) -> bool:
    """Whether the operation is one of our layers that look at other positions, or count them."""
    return type(instruction.operation) in TAKE_PART


def _is_known(part: keras.layers.Layer) -> bool:
    """Whether a part of one of our layers is known, and not a norm, a position or a feed-forward network of the user's,
    which may look at other positions than it should."""
    return type(part).__module__.startswith(OURS) or type(part) is keras.layers.Dense


def arguments(instruction: Instruction) -> dict:
    """The arguments of a call by name, slots in place of tensors; those that are None left out."""
    bound = inspect.signature(type(instruction.operation).call).bind(None, *instruction.args, **instruction.kwargs)
    return {name: value for name, value in bound.arguments.items() if name != "self" and value is not None}


def slots_of(value) -> list[int]:
    """The slots in an argument."""
    if isinstance(value, Slot):
        return [value.index]
    if isinstance(value, dict):
        value = list(value.values())
    return [slot for part in value for slot in slots_of(part)] if isinstance(value, list | tuple) else []


def output_axes(
    instruction: Instruction, axes: Axes, dependent: set[int], shapes: Shapes, *, cached: bool
) -> tuple[int | None, ...] | None:
    """The time axis of each output of one of our layers, None for one that has none, if all that it is given is what
    decoding allows; None if it is not.

    What has parts of the user's own is not known. With `cached`, the mask is not looked at here: see `inspection.py`.
    """
    operation, given = instruction.operation, arguments(instruction)
    if isinstance(operation, TAKE_PARTS) and not all(map(_is_known, layers_within(operation))):
        return None
    sequence = slots_of(given.pop("inputs", None))
    if len(sequence) != 1 or axes.get(sequence[0]) != 1 or not getattr(operation, "causal", True):
        return None
    if given.pop("training", False) is True:
        return None
    query_mask = slots_of(given.pop(OF_THE_QUERIES.get(type(operation), ""), None))
    for slot in query_mask:
        rank = len(shapes[slot])
        if (axes.get(slot) if slot in dependent else rank - 2) != rank - 2:
            return None
        if slot not in dependent and shapes[slot][-2] != 1:
            return None
    for name, value in given.items():
        changes = [slot for slot in slots_of(value) if slot in dependent]
        if name in OF_THE_MEMORY and changes:
            return None
        if name in NOT_KEPT and (cached or any(axes.get(slot) != 1 for slot in changes)):
            return None
        if name in ("mask", "inputs_mask") and any(axes.get(slot) != 1 for slot in slots_of(value)):
            return None
    if isinstance(operation, MultiHeadCrossAttention):
        return _padded((1, 2), instruction)
    if isinstance(operation, DecoderLayer):
        return _padded((1, None, 2), instruction)
    return (
        (1,) * len(instruction.outputs) if isinstance(operation, RecurrentDecoderLayer) else _padded((1,), instruction)
    )


def _padded(axes: tuple, instruction: Instruction) -> tuple:
    """Axes for as many outputs as there are."""
    return (*axes, *[None] * len(instruction.outputs))[: len(instruction.outputs)]


def uses_mask(operation) -> bool:
    """Whether a layer hides positions of the target by their mask."""
    return type(operation) in USE_MASK


def given_mask(instruction: Instruction) -> int | None:
    """The slot of the mask that a layer is given as an argument, if there is one."""
    for name in ("mask", "inputs_mask"):
        value = instruction.kwargs.get(name)
        if isinstance(value, Slot):
            return value.index
    return None


def makes_mask(operation) -> bool:
    """Whether an operation is a layer that may put a mask on its output."""
    return isinstance(operation, keras.layers.Layer) and operation.supports_masking
