"""Random inputs that a model takes, and random weights for those that it happens to have."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_transformer._keras import learned_variables
from keras_transformer.decoding.compiling import failures
from keras_transformer.decoding.program import PASS_IDS, Program, run, table_size

BATCH, SOURCE_LENGTH = 2, 7
BLOCK = 65521  # a prime: a block of so many random numbers, repeated, has no pattern that a matrix shares


def sample_inputs(program: Program, lengths: int | dict[str, int], batch: int, seed: int = 0) -> dict[int, np.ndarray]:
    """Random inputs of a model by slot, as what reads them wants them: ids of the smallest table that looks them up,
    entries of a vocabulary, texts of its words, or normal numbers.

    Args:
        program: The model.
        lengths: For dimensions that are not fixed, one for all inputs, or by name.
        batch: Number of rows.
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    inputs = {}
    for slot, name in enumerate(program.input_names):
        length = lengths.get(name, SOURCE_LENGTH) if isinstance(lengths, dict) else lengths
        shape = (batch, *(length if dim is None else dim for dim in program.shapes[slot][1:]))
        inputs[slot] = _sample(program, slot, shape, random)
    return inputs


def _sample(program: Program, slot: int, shape: tuple, random) -> np.ndarray:
    dtype = program.input_dtypes[slot]
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(dtype)
    readers = [x.operation for x in program.readers(slot, PASS_IDS)]
    vocabulary = next((words for words in map(_vocabulary, readers) if words is not None), None)
    if dtype == "string":
        words = np.array(["a", "b", "c"] if vocabulary is None else [str(x) for x in vocabulary], dtype=object)
        is_text = any(isinstance(x, keras.layers.TextVectorization) for x in readers)
        picked = random.choice(words, (*shape, SOURCE_LENGTH if is_text else 1))
        return np.array([" ".join(row) for row in picked.reshape(-1, picked.shape[-1])], dtype=object).reshape(shape)
    if vocabulary is not None:
        return random.choice(np.asarray(vocabulary), shape).astype(dtype)
    sizes = [size for size in (table_size(x, dtype) or _classes(x, dtype) for x in readers) if size is not None]
    if sizes:
        return sample_ids(random, min(sizes), shape, program.padding_id(slot)).astype(dtype)
    if "int" not in dtype:
        usual = random.normal(size=shape)
    elif len(shape) > 2:  # pixels
        usual = random.integers(0, 256, shape)
    else:
        usual = sample_ids(random, 2, shape, program.padding_id(slot))
    return _suiting_tables(program, slot, usual.astype(dtype), random)


def _classes(operation, dtype: str) -> int | None:
    """How many different integers an operation tells apart: one-hot and multi-hot vectors."""
    names = {"OneHot": "num_classes", "MultiHot": "num_classes", "CategoryEncoding": "num_tokens"}
    return getattr(operation, names.get(type(operation).__name__, ""), None) if "int" in dtype else None


def _suiting_tables(program: Program, slot: int, usual: np.ndarray, random) -> np.ndarray:
    """Values for an input, `usual` ones, unless tables of ids read what operations without weights make of it: a
    function that casts, a difference. Then those that the tables take, whole numbers below their sizes, or smaller."""
    _, sizes = _way_to_tables(program, slot)
    if not sizes:
        return usual
    ids = sample_ids(random, min(sizes), usual.shape, program.padding_id(slot))
    tries = (x.astype(usual.dtype) for x in (ids, ids % 2 + 1, usual, np.ones_like(ids), np.zeros_like(ids)))
    return next((x for x in tries if suits_tables(program, slot, x)), usual)


def suits_tables(program: Program, slot: int, values: np.ndarray) -> bool:
    """Whether the tables that an input reaches through operations without weights take what these make of `values`."""
    path, _ = _way_to_tables(program, slot)
    found = {slot: ops.convert_to_tensor(values)} if path else {}
    try:
        run(path, found)
    except failures():
        return False
    return all(map(_is_finite, found.values()))  # beyond a table some backends give NaN


def _way_to_tables(program: Program, slot: int) -> tuple[list, list[int]]:
    """The instructions from an input to the tables that read what is made of it alone without weights, and their
    sizes; none if there are no such tables."""
    slots, path, sizes = {slot}, [], []
    for instruction in program.instructions:
        operation = instruction.operation
        if slots.isdisjoint(instruction.inputs):
            continue
        size = None if instruction.kwargs.get("reverse") else table_size(operation, "int32")
        if size is not None:
            sizes.append(size)
        elif getattr(operation, "variables", None) or not slots.issuperset(instruction.inputs):
            continue
        else:
            slots.update(instruction.outputs)
        path.append(instruction)
    return (path, sizes) if sizes else ([], [])


def _is_finite(x) -> bool:
    return not keras.backend.is_float_dtype(x.dtype) or bool(ops.all(ops.isfinite(x)))


def _vocabulary(operation) -> Sequence | None:
    """The entries that a lookup layer of Keras knows; some strings or numbers for one that hashes them."""
    if getattr(operation, "invert", False):  # from ids to entries
        return range(operation.vocabulary_size())
    if isinstance(operation, keras.layers.TextVectorization | keras.layers.StringLookup | keras.layers.IntegerLookup):
        return list(operation.get_vocabulary(include_special_tokens=False)) or [1, 2, 3]
    return range(1, 100) if isinstance(operation, keras.layers.Hashing) else None


def sample_ids(random, size: int, shape: Sequence[int], padding_id: int | None = None) -> np.ndarray:
    """Random ids below `size`, none of them padding."""
    if padding_id is None or size < 2:
        return random.integers(0, size, shape)
    ids = random.integers(0, size - 1, shape)
    return ids + (ids >= padding_id)


def random_weights(operations, seed: int = 0) -> tuple[list, list[np.ndarray]]:
    """The variables in the layers among `operations` that training changes, or that a callback may, and random values
    for them: what a gate or a kernel of zeros hides now shows. Whole numbers stay, and so do tables that no training
    changes (which positions see each other, say); numbers and vectors that no training changes stay positive."""
    learned, variables = set(), {}
    for operation in operations:
        if isinstance(operation, keras.layers.Layer):
            found = learned_variables(operation)
            learned.update(map(id, found))
            variables.update({id(x): x for x in (*found, *operation.variables)})
    variables = [
        x
        for x in variables.values()
        if keras.backend.is_float_dtype(x.dtype) and (id(x) in learned or len(x.shape) < 2)
    ]
    block = np.random.default_rng(seed).standard_normal(BLOCK).astype("float32")
    values = []
    for number, variable in enumerate(variables):
        value = np.resize(np.roll(block, 997 * number), variable.shape)
        if len(variable.shape) < 2:  # biases, gates, the gains of norms
            sign = np.sign(value) if id(variable) in learned else 1.0  # a variance is no less than zero
            value = sign * (0.5 + np.abs(value) % 1)
        elif "embeddings" not in variable.path:
            value = value * np.prod(variable.shape[:-1]) ** -0.5
        values.append(value)
    return variables, values


def as_tensors(inputs: dict[int, np.ndarray]) -> dict[int, object]:
    """Arrays as tensors."""
    return {slot: ops.convert_to_tensor(x) for slot, x in inputs.items()}
