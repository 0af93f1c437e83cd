"""Initial values that are not drawn where a checkpoint is about to overwrite them."""

import contextlib
from contextvars import ContextVar

import keras
from keras import ops

_LOADING = ContextVar("loading", default=False)


@keras.saving.register_keras_serializable("keras_transformer")
class PretrainedNormal(keras.initializers.RandomNormal):
    """`keras.initializers.RandomNormal`, but zeros while a checkpoint is being loaded: drawing a random number for each
    weight takes as long as reading it."""

    def __call__(self, shape, dtype=None):
        return ops.zeros(shape, dtype) if _LOADING.get() else super().__call__(shape, dtype)


@contextlib.contextmanager
def loading():
    """A context in which nothing is drawn."""
    token = _LOADING.set(True)
    try:
        yield
    finally:
        _LOADING.reset(token)
