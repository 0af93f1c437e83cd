"""Whether what is traced now will run as a TensorFlow graph without XLA, where other ways are fast than under XLA."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import keras

_WITHOUT_XLA: ContextVar[bool] = ContextVar("without_xla", default=False)


@contextlib.contextmanager
def without_xla() -> Iterator[None]:
    """Let functions that ask `is_without_xla` know, on TensorFlow, while this is active."""
    token = _WITHOUT_XLA.set(keras.backend.backend() == "tensorflow")
    try:
        yield
    finally:
        _WITHOUT_XLA.reset(token)


def is_without_xla() -> bool:
    """Whether this is traced for a TensorFlow graph that runs without XLA, and on TensorFlow only."""
    return _WITHOUT_XLA.get()
