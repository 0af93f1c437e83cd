"""Where what runs now runs: as a TensorFlow graph without XLA, where other ways are fast; compiled by XLA; on a device
that a converter writes for; at once, on known values."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import keras
import numpy as np

from keras_transformer._keras import is_trial

_WITHOUT_XLA: ContextVar[bool] = ContextVar("without_xla", default=False)
_FOR_CONVERTER: ContextVar[str | None] = ContextVar("for_converter", default=None)


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


@contextlib.contextmanager
def for_converter(target: str) -> Iterator[None]:
    """Let functions that ask `is_for_converter` know, while this is active. `target` is "litert" or "onnx"."""
    token = _FOR_CONVERTER.set(target)
    try:
        yield
    finally:
        _FOR_CONVERTER.reset(token)


def is_for_converter(*targets: str) -> bool:
    """Whether this is traced to be converted, to one of the targets, or to any: into few operations, on tensors of
    fixed shapes."""
    target = _FOR_CONVERTER.get()
    return target is not None and (not targets or target in targets)


def is_compiled_by_xla() -> bool:
    """Whether this is traced for XLA by TensorFlow, which tells it privately only (2.21)."""
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def is_known(tensor) -> bool:
    """Whether a tensor has its value: not while a function is traced to be compiled."""
    backend = keras.backend.backend()
    if isinstance(tensor, keras.KerasTensor):
        return False
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.executing_eagerly()
    if backend == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    if backend == "torch":
        import torch

        if is_trial():
            return False
        return tensor.device.type != "meta" and not torch.compiler.is_compiling()
    return True


def concrete(tensor) -> np.ndarray | None:
    """The values of a tensor where they are known, outside of any tracing; None where they are not."""
    if isinstance(tensor, keras.KerasTensor):
        return None
    if keras.backend.backend() == "torch" and keras.ops.is_tensor(tensor):
        return keras.ops.convert_to_numpy(tensor) if is_known(tensor) else None
    try:
        return np.asarray(tensor)
    except (TypeError, NotImplementedError, RuntimeError, ValueError):  # a tracer or a symbolic tensor
        return None
