"""Compilation of a pure function of tensors, in the way of each backend."""

from collections.abc import Callable

import keras

from keras_transformer.ops.runtime import without_xla


def compiled(function: Callable, variables: list, jit_compile: bool = True) -> Callable:
    """Compile `function` with XLA on TensorFlow and JAX; on PyTorch, run it eagerly without gradients.

    Args:
        function: Takes and returns (nested) tensors. May read `variables`; changes nothing.
        variables: The Keras variables that it reads. JAX gets them as arguments, or it would bake them in.
        jit_compile: Whether TensorFlow uses XLA; if not, it runs the function as a graph of its own operations.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        traced = tf.function(
            function if jit_compile else without_xla()(function), jit_compile=jit_compile, autograph=False
        )
        # By way of the concrete function: TensorFlow would warn of too many shapes, which are few (buckets.py).
        return lambda *args: traced.get_concrete_function(*args)(*args)
    if backend == "jax":
        import jax

        @jax.jit
        def pure(values, *args):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(*args)

        return lambda *args: pure([variable.value for variable in variables], *args)
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    return function


def evaluate(function: Callable, variables: list, *args, values: list | None = None):
    """The value of `function(*args)`, computed once: as it stands, but compiled on JAX, which is slow op by op.

    Args:
        function: Takes and returns (nested) tensors. May read `variables`; changes nothing.
        variables: The Keras variables that it reads.
        args: Tensors.
        values: What to take the variables for, in place of what they hold. They are not touched: other threads see
            what they always saw.
    """
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def pure(values, *args):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(*args)

        return pure([variable.value for variable in variables] if values is None else values, *args)
    if values is None:
        return function(*args)
    with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
        return function(*args)


def failures() -> tuple[type[Exception], ...]:
    """The exceptions by which backends say that an operation cannot be run on what it was given."""
    common = (ValueError, TypeError, RuntimeError, ArithmeticError, IndexError)
    if keras.backend.backend() != "tensorflow":
        return common
    import tensorflow as tf

    return (*common, tf.errors.OpError)  # not one of them is a RuntimeError
