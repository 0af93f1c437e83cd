"""What the inputs and outputs of an export are called: as in the model where that works, and no two alike."""

import keyword
import re
from collections.abc import Sequence

import keras


def input_names(model: keras.Model) -> list[str]:
    """The names of the model's inputs, each a letter with letters, digits and underscores behind it.

    TensorFlow puts other characters out of the names of a signature's inputs, or fails on them, as it does on words
    that no parameter of a Python function may be called: such a name becomes `input_...`.
    """

    def is_taken(name: str) -> bool:
        return name[:1].isalpha() and name != "self" and not keyword.iskeyword(name)

    names = [re.sub(r"[^A-Za-z0-9_]", "_", x.name) for x in model.inputs]
    return unique([name if is_taken(name) else f"input_{name.strip('_')}".rstrip("_") for name in names])


def output_names(model: keras.Model) -> list[str]:
    """A name for each output of a functional model, in the order of `keras.tree.flatten`.

    In a dict the keys are the names, joined by underscores with those within: the outputs `{"a": [x, y]}` are `a_0` and
    `a_1`. Others have the names of the layers that make them, numbered from the second on, since a layer may be called
    twice or have two outputs.
    """
    structure = structure_of(model, "output")
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    names = [_keys(structure, path) for path in paths]
    is_sequential = isinstance(model, keras.Sequential)
    layers = [model.layers[-1].name] * len(names) if is_sequential else model.output_names
    return unique([name or layer for name, layer in zip(names, layers, strict=True)])


def structure_of(model: keras.Model, side: str):
    """The `"input"` or `"output"` of a functional model, in the structure that it was made with."""
    if isinstance(model, keras.Sequential):  # has no such attribute before it was part of another model
        tensors = model.inputs if side == "input" else model.outputs
        return tensors[0] if len(tensors) == 1 else tensors
    return getattr(model, side)


def _keys(structure, path: Sequence) -> str:
    """The steps of a path from the first key of a dict on."""
    for place, step in enumerate(path):
        if isinstance(structure, dict):
            return "_".join(map(str, path[place:]))
        structure = structure[step]
    return ""


def unique(names: Sequence[str]) -> list[str]:
    """The names, with `_1`, `_2`, ... behind those that were there before. A name that occurs once stays as it is."""
    taken, found = set(names), []
    for name in names:
        number, new = 0, name
        while new in found or (number and new in taken):
            number += 1
            new = f"{name}_{number}"
        found.append(new)
    return found
