"""Which input of a model takes the target tokens: the one whose sequence the logits are, read from the graph."""

import keras

from keras_transformer.decoding.participants import arguments, slots_of, takes_part
from keras_transformer.decoding.program import Instruction, Program
from keras_transformer.layers.attention import MultiHeadSelfAttention
from keras_transformer.layers.class_token import ClassToken
from keras_transformer.layers.encoder import EncoderLayer
from keras_transformer.layers.patches import PatchEmbedding
from keras_transformer.layers.pooling import MaskedPooling
from keras_transformer.layers.subsampling import ConvolutionalSubsampling

NAMES = ("target", "tokens")
QUERIED = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)  # whose output is of their first argument
# What mixes all positions, or moves them: no target tokens pass through it.
WHOLE = (
    EncoderLayer,
    MaskedPooling,
    ClassToken,
    PatchEmbedding,
    ConvolutionalSubsampling,
    keras.layers.Bidirectional,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalMaxPooling1D,
)


def find_target(program: Program, model: keras.Model) -> int:
    """The slot of the input that takes the target tokens.

    It is the only one from which tokens get to the logits without being a memory and without passing a layer that mixes
    all positions. Of several, the one that is called "target" or "tokens", else the last.

    Raises:
        ValueError: If the inputs are a dict, which Keras sorts by name, so that the last says nothing, and neither the
            graph nor the names decide.
    """
    names = program.input_names
    found = _carried(program) or list(range(len(names)))
    if len(found) == 1:
        return found[0]
    for name in NAMES:
        if name in names and names.index(name) in found:
            return names.index(name)
    if isinstance(model.input, dict):
        raise ValueError(
            f"Generator cannot tell which input of the model '{model.name}' takes the target tokens: it has the inputs "
            f"{names}, as a dict without an order, and {[names[slot] for slot in found]} may be it. Name it: "
            "target_input=..."
        )
    return found[-1]


def _carried(program: Program) -> list[int]:
    """The inputs from which there is a way to the logits along the sequence."""
    makers = {slot: instruction for instruction in program.instructions for slot in instruction.outputs}
    pending, seen = list(program.outputs), set()
    while pending:
        slot = pending.pop()
        if slot not in seen:
            seen.add(slot)
            if slot in makers:
                pending.extend(_sequences(makers[slot]))
    return [slot for slot in range(len(program.input_names)) if slot in seen]


def _sequences(instruction: Instruction) -> list[int]:
    """What of the inputs of an operation its output may be the sequence of."""
    operation = instruction.operation
    if isinstance(operation, WHOLE) or (isinstance(operation, MultiHeadSelfAttention) and not operation.causal):
        return []
    if takes_part(instruction):
        return slots_of(arguments(instruction).get("inputs"))
    if isinstance(operation, QUERIED):
        given = instruction.args[0] if instruction.args else instruction.kwargs.get("query")
        return slots_of(given) or list(instruction.inputs)
    return list(instruction.inputs)
