"""The variables of a model and the tensors they are made of, both ways, one at a time."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import keras
import ml_dtypes
import numpy as np

from keras_transformer._keras import begin_with, layers_within
from keras_transformer.layers.quantized import Adaptable
from keras_transformer.pretrained.kept import kept_entries
from keras_transformer.pretrained.layouts import Entry, Layout
from keras_transformer.pretrained.weights import Tensor, listed


def by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """The variables of a model by their paths, without the name scopes in which its layers were built."""
    return {
        variable.path.removeprefix(layer.path.removesuffix(layer.name)): variable
        for layer in model.layers
        for variable in layer.weights
    }


def of_model(model: keras.Model, entries: Iterable[Entry], prefix: str) -> list[Entry]:
    """Those entries whose variable the model has, with the whole names of their tensors."""
    paths = by_path(model)
    return [
        entry._replace(
            tensors=tuple(whole_name(name, prefix) for name in entry.tensors),
            copies=tuple(whole_name(name, prefix) for name in entry.copies),
        )
        for entry in (*entries, *kept_entries(model))
        if entry.path in paths
    ]


def as_stored(entries: Iterable[Entry], tensors: Mapping[str, Tensor]) -> list[Entry]:
    """Entries with the name of a copy where only that is there: of names for one tensor a file may hold any."""
    found = []
    for entry in entries:
        names = (*entry.tensors, *entry.copies)
        there = next((name for name in names if name in tensors), None)
        if len(entry.tensors) == 1 and there is not None:
            entry = entry._replace(tensors=(there,), copies=tuple(name for name in names if name != there))
        found.append(entry)
    return found


def whole_name(name: str, prefix: str) -> str:
    """The name of a tensor, which has the prefix of the base model unless a colon says that it stands beside it."""
    return name[1:] if name.startswith(":") else prefix + name


def fill(model: keras.Model, entries: list[Entry], tensors: Mapping[str, Tensor], where: str) -> None:
    """Say what each variable of the model begins with: each is read when the variable is made, at the end of the
    `keras.StatelessScope` in which the model was.

    Raises:
        ValueError: If a tensor is missing, not wanted, or of another shape.
    """
    wanted = {name for entry in entries for name in entry.tensors}
    copies = {name: entry for entry in entries for name in entry.copies if name in tensors and name not in wanted}
    missing = [name for entry in entries for name in entry.tensors if name not in tensors]
    if missing:
        raise ValueError(f"{where} lacks tensors that the model needs: {listed(missing)}.")
    extra = sorted(set(tensors) - wanted - set(copies))
    if extra:
        raise ValueError(f"{where} has tensors that the model has no place for: {listed(extra)}.")
    for name, entry in copies.items():
        one, other = tensors[name].read(), tensors[entry.tensors[0]].read()
        if one.shape != other.shape or one.tobytes() != other.tobytes():
            raise ValueError(
                f"{where} has the tensor {name}, which should be the same as {entry.tensors[0]}, as the settings say "
                "(tie_word_embeddings), and is not."
            )
    variables = by_path(model)
    for entry in entries:
        variable = variables.pop(entry.path)
        sources = [tensors[name] for name in entry.tensors]
        for name, source, shape in zip(entry.tensors, sources, entry.layout.shapes(variable.shape), strict=True):
            if source.shape != shape:
                raise ValueError(
                    f"{where} has the tensor {name} of shape {source.shape}, the model needs {shape} (for the variable "
                    f"'{entry.path}')."
                )
        begin_with(variable, partial(_read, entry.layout, sources))
    if variables:
        raise ValueError(f"Nothing is known of what the variables {listed(variables)} are to be filled from.")


def _read(layout: Layout, sources: list[Tensor], shape, dtype: str) -> np.ndarray:
    """The value of a variable: a copy, as backends may take an array as it is, and this one lies in a file."""
    return np.array(layout.read([source.read() for source in sources]), as_dtype(dtype), order="C")


def as_dtype(name: str) -> np.dtype | None:
    """A NumPy dtype, "bfloat16" included; None if there is no such type."""
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        return None


def values(model: keras.Model, entries: list[Entry], dtypes: Mapping[str, np.dtype]) -> Iterator[np.ndarray]:
    """The tensors of the entries, each in its type; LoRA is added to the matrix it belongs to.

    Raises:
        ValueError: If a layer is quantized, or one of Keras' own has LoRA.
    """
    variables = by_path(model)
    adapted = {}
    for layer in layers_within(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                f"The layer '{layer.path}' is quantized ({layer.quantization_mode}), so the tensors of the checkpoint "
                "cannot be given back. Save the model before it is quantized."
            )
        if isinstance(layer, Adaptable) and layer.built:
            if layer.lora_enabled:
                adapted[id(layer._matrix)] = layer
        elif getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"The layer '{layer.path}' is Keras' own, with LoRA, which is not added to its matrix here: assign "
                "`layer.kernel` to a layer without it."
            )
    for entry in entries:
        variable = variables[entry.path]
        value = keras.ops.convert_to_numpy(variable)
        if id(variable) in adapted:
            value = merged(value, adapted[id(variable)])
        for name, tensor in zip(entry.tensors, entry.layout.write(value), strict=True):
            yield np.ascontiguousarray(tensor, dtype=dtypes[name])


def merged(matrix: np.ndarray, layer: Adaptable) -> np.ndarray:
    """The matrix with the change that LoRA learned, W + (alpha / rank) A B."""
    a, b = (keras.ops.convert_to_numpy(factor).astype("float32") for factor in layer._factors.values())
    return matrix.astype("float32") + (layer.lora_alpha / layer.lora_rank) * (a @ b)
