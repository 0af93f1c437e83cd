"""What a compiled function took from a model for good: its variables, without their values, and settings of layers."""

import types
from functools import cache
from itertools import chain
from operator import is_

import keras

from keras_transformer._keras import is_functional, layers_within

PLAIN = {bool, int, float, complex, str, bytes, type(None)}
OPAQUE = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type,
    keras.layers.Layer, keras.Variable, keras.KerasTensor,
)  # fmt: skip
LIBRARIES = {"tensorflow", "jax", "jaxlib", "torch", "numpy", "threading", "_thread"}  # of tensors, and of no settings
UNUSED = ("_initializer", "_regularizer", "_constraint")  # of training only
DEPTH = 3  # of lists, and of objects that layers hold


class Structure:
    """Of models and of other objects that take part. Two are equal if what was compiled for the one does for the other.

    A setting is any attribute that a bare Keras layer does not have: numbers, strings and functions are compared, and
    so are those in lists, dicts and objects; of tensors, arrays and layers, which one it is.

    Args:
        models: Models, or other layers.
        others: What else has settings: a strategy, processors.
    """

    def __init__(self, models, others=()):
        self._held = []  # as long as they live, nothing else has their ids
        self._parts = []  # flat: thousands of small tuples would keep the garbage collector busy
        self._watched = []  # the collections that all this was read from, and views of the values in dicts
        for model in models:
            self._watch_containers(model)
            for layer in layers_within(model):
                self._add_which(layer)
                self._parts += (layer.trainable, layer.dtype_policy.name)
                self._watch_containers(layer)
                if not is_functional(layer):  # what that is made of is among the layers
                    self._add_settings(layer, _bookkeeping(), DEPTH)
            for variable in model.variables:
                self._add_which(variable)
                self._parts += (variable.shape, variable.dtype)
        for other in others:
            self._add(other, DEPTH)
        self._sizes, self._contents = self._sizes_now(), list(self._contents_now())

    def __eq__(self, other):
        return self._parts == other._parts

    def is_current(self) -> bool:
        """Whether everything that was read is still the same object in the same place.

        That takes a fraction of the time of reading anew, which is to be done if not: then something may have changed.
        """
        return self._sizes_now() == self._sizes and all(map(is_, self._contents_now(), self._contents))

    def _sizes_now(self) -> list[int]:
        return list(map(len, self._watched))

    def _contents_now(self) -> chain:
        return chain.from_iterable(self._watched)

    def _watch(self, container) -> None:
        self._watched.append(container)
        if isinstance(container, dict):  # which by itself stands for its keys
            self._watched.append(container.values())

    def _watch_containers(self, layer) -> None:
        """Watch the lists of a layer in which Keras keeps its layers and variables, and others."""
        for value in vars(layer).values():
            if isinstance(value, dict | list):
                self._watch(value)

    def _add_which(self, value) -> None:
        self._held.append(value)
        self._parts.append(id(value))

    def _add_settings(self, value, ignored, depth: int) -> None:
        self._watched.append(vars(value).values())
        for name, x in vars(value).items():
            if name not in ignored and not name.startswith("_self_") and not name.endswith(UNUSED):
                self._parts.append(name)
                self._add(x, depth)

    def _add(self, value, depth: int) -> None:
        kind = type(value)
        if kind in PLAIN:
            self._parts.append(value if value == value else "NaN")
        elif depth and isinstance(value, dict):
            self._watch(value)
            self._parts += ("dict", len(value))
            for key, x in value.items():
                self._add(key, 0)
                self._add(x, depth - 1)
        elif depth and isinstance(value, list | tuple | set | frozenset):
            self._watch(value)
            self._parts += ("list", len(value))
            for x in value:
                self._add(x, depth - 1)
        elif not depth or isinstance(value, OPAQUE) or kind.__module__.partition(".")[0] in LIBRARIES:
            self._add_which(value)
        elif hasattr(value, "__dict__"):
            self._add_which(kind)
            self._add_settings(value, (), depth - 1)
        else:
            self._add_which(value)


@cache
def _bookkeeping() -> frozenset[str]:
    """Attributes that every layer and every model has, that training and decoding themselves set, or that only
    configurations are made of."""
    names = {*vars(keras.layers.Layer()), *vars(keras.Model())}
    return frozenset(
        {*names, "history", "optimizer", "stop_training", "_compile_config", "_compiled_trainable_state",
         "_eval_epoch_iterator", "use_cudnn", "_parts"}
    )  # fmt: skip
