"""What a compiled function took from a model for good: its variables, without their values, and settings of layers."""

import types
from functools import cache

import keras
import numpy as np

from keras_transformer._keras import is_functional, layers_within

PLAIN = (bool, int, float, complex, str, bytes, type(None))
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
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
        self._parts = []
        for model in models:
            for layer in layers_within(model):
                self._parts.append(id(self._hold(layer)))
                self._parts.append((layer.trainable, layer.dtype_policy.name))
                if not is_functional(layer):  # what that is made of is among the layers
                    self._parts.append(self._settings(layer, _bookkeeping(), DEPTH))
            self._parts.extend((id(self._hold(x)), tuple(x.shape), x.dtype, x.trainable) for x in model.variables)
        self._parts.extend(self._describe(other, DEPTH) for other in others)

    def __eq__(self, other):
        return self._parts == other._parts

    def _hold(self, value):
        self._held.append(value)
        return value

    def _settings(self, value, ignored, depth: int) -> tuple:
        return tuple(
            (name, self._describe(x, depth))
            for name, x in vars(value).items()
            if name not in ignored and not name.startswith("_self_") and not name.endswith(UNUSED)
        )

    def _describe(self, value, depth: int):
        if isinstance(value, PLAIN):
            return type(value), repr(value)
        if depth and isinstance(value, dict):
            return [(self._describe(key, 0), self._describe(x, depth - 1)) for key, x in value.items()]
        if depth and isinstance(value, list | tuple):
            return [self._describe(x, depth - 1) for x in value]
        is_opaque = isinstance(value, (*FUNCTIONS, keras.layers.Layer, keras.Variable, np.ndarray))
        if depth and not is_opaque and hasattr(value, "__dict__") and not keras.ops.is_tensor(value):
            return type(value), self._settings(value, (), depth - 1)
        return id(self._hold(value))


@cache
def _bookkeeping() -> frozenset[str]:
    """Attributes that every layer and every model has, or that training and decoding themselves set."""
    names = {*vars(keras.layers.Layer()), *vars(keras.Model())}
    return frozenset(
        {*names, "history", "optimizer", "stop_training", "_compile_config", "_compiled_trainable_state",
         "_eval_epoch_iterator", "use_cudnn"}
    )  # fmt: skip
