"""Inputs to try an export on, random ones and those of a user."""

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.decoding.program import Program
from keras_transformer.decoding.samples import sample_inputs as random_inputs
from keras_transformer.decoding.samples import suits_tables
from keras_transformer.export.names import input_names
from keras_transformer.export.signatures import Signature, input_paddings, inputs_of_model
from keras_transformer_runtime.ids import read_rows
from keras_transformer_runtime.seeds import fold_seed


def sample_inputs(target: Generator | keras.Model, signature: Signature, length: int, batch: int) -> list[np.ndarray]:
    """Random inputs for the signature of ids, but for a seed, the last row a shorter one where rows may be padded."""
    program = target.graph if isinstance(target, Generator) else Program(target)
    inputs = random_inputs(program, length, batch)
    kept, lengths = max(1, length - length // 3), np.full((batch,), length, np.int32)
    lengths[-1] = kept
    paddings = input_paddings(target, signature)
    values = []
    slots = {name: slot for slot, name in enumerate(input_names(program.model))}
    for (name, _, dtype), padding_id in zip(signature.inputs, paddings, strict=True):
        if name not in slots:
            continue
        slot = slots[name]
        x, is_ids = inputs[slot], "int" in dtype or slot in program.vocabulary_limits()
        if is_ids and padding_id is not None and program.shapes[slot][1:] == (None,):
            padded = np.where(np.arange(length) < lengths[:, None], x, padding_id).astype(x.dtype)
            x = padded if suits_tables(program, slot, padded) else x
        values.append(x.astype(dtype) if x.dtype != object else x)
    return [*values, *([lengths] if takes_lengths(target, signature) else [])]


def takes_lengths(target: Generator | keras.Model, signature: Signature) -> bool:
    """Whether a signature takes the lengths of prompts."""
    return isinstance(target, Generator) and any(x.name == "lengths" for x in signature.inputs)


def as_inputs(target: Generator | keras.Model, samples, signature: Signature) -> list[np.ndarray]:
    """Samples of ids, an array or a list of lists, or, for several inputs, a list of them, as the signature takes them.

    Args:
        target: What is exported.
        samples: As a generator takes them.
        signature: Of ids.
    """
    inputs, paddings = inputs_of_model(target, signature), input_paddings(target, signature)
    given = list(samples) if len(inputs) > 1 else [samples]
    if len(given) != len(inputs):
        raise ValueError(f"The samples are {len(given)} arrays; the inputs are {[x.name for x in inputs]}.")
    arrays = []
    for x, (name, _, dtype), padding_id in zip(given, inputs, paddings, strict=False):
        if "int" in dtype and isinstance(x, list | tuple) and np.ndim(x[0]) == 1:
            x, lengths = read_rows(x, f"A sample of '{name}'", padding_id=padding_id)
        else:
            x = np.asarray(x)
            lengths = np.full((len(x),), x.shape[-1], np.int32)
        arrays.append(x.astype(dtype))
    return [*arrays, *([lengths] if takes_lengths(target, signature) else [])]


def sample_seed(target: Generator | keras.Model) -> list[np.int32]:
    """The seed to try a signature with, if it takes one: the strategy's own, or one drawn."""
    is_random = isinstance(target, Generator) and target.strategy.is_random
    return [np.int32(fold_seed(target.strategy.seed))] if is_random else []
