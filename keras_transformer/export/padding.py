"""Whether the inputs of a file with static shapes may be padded to them."""

from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.decoding.compiling import failures
from keras_transformer.export.agreement import differs
from keras_transformer.export.samples import sample_inputs
from keras_transformer.export.signatures import Signature, input_paddings


class Padding(NamedTuple):
    """What padding does to a model."""

    ignored: frozenset[str]  # the inputs that may be padded with no effect on the answer
    outputs: dict[str, tuple]  # of a plain model; None for the dimensions that are as long as the inputs


def try_padding(target: Generator | keras.Model, ids: Signature, whole: Signature, length: int | None) -> Padding:
    """Find out what happens when the inputs of `ids`, of any shape, are padded to the shapes of `whole`."""
    if isinstance(target, Generator):
        names = [x.name for x in ids.inputs]
        if len(target.graph.input_names) == 1:
            return Padding(frozenset(names), {})  # the lengths of prompts are known
        slots = [slot for slot in range(len(target.graph.input_names)) if slot != target.graph.target]
        ignored = {name for name, slot in zip(names, slots, strict=False) if target.source_padding.may_pad(slot)}
        return Padding(frozenset(ignored), {})
    varying = [x.name for x in ids.inputs if None in x.shape[1:]]
    half = max(1, (length or 1) // 2)
    shorter = sample_inputs(target, ids, half, whole.inputs[0].shape[0])
    longer = [
        pad(x, wanted.shape, padding)
        for x, wanted, padding in zip(shorter, whole.inputs, input_paddings(target, ids), strict=True)
    ]

    def run(values):
        return {name: np.asarray(keras.ops.convert_to_numpy(x)) for name, x in ids.function(*values).items()}

    before, is_taken = run(shorter), True
    try:
        after = run(longer)
    except failures():  # what pads is none of the ids that the model takes
        after, is_taken = run(sample_inputs(target, ids, length, whole.inputs[0].shape[0])), False
    outputs = {
        name: tuple(
            None if axis and (x.shape[axis], size) == (half, length) else size
            for axis, size in enumerate(after[name].shape)
        )
        for name, x in before.items()
    }
    same = is_taken and all(
        not differs(x, after[name][tuple(slice(size) for size in x.shape)]).any() for name, x in before.items()
    )
    return Padding(frozenset(varying if same else ()), outputs)


def pad(array: np.ndarray, shape: tuple, padding_id: int | None) -> np.ndarray:
    """An array filled up to a shape on the right."""
    sides = [(0, max(0, wanted - given)) for given, wanted in zip(array.shape, shape, strict=True)]
    return np.pad(array, sides, constant_values=padding_id or 0) if array.dtype != object else array
