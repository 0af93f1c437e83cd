"""Long tensors as rows of blocks that a loop reads and writes one by one; functions with a gradient of their own.

TensorFlow's loops keep blocks in a TensorArray, which needs no XLA operation and copies nothing that is not written;
JAX and XLA write in place what a loop carries.
"""

from collections.abc import Callable

import keras
from keras import ops


def empty_blocks(count, shape: tuple, dtype: str):
    """`count` blocks of `shape`, all zero, to be written within a loop."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        blocks = tf.TensorArray(
            dtype, size=count, clear_after_read=False, element_shape=[d if isinstance(d, int) else None for d in shape]
        )
        return blocks.unstack(tf.zeros((count, *shape), dtype))
    return ops.zeros((count, *shape), dtype)


def read_block(blocks, index):
    """Block number `index`."""
    return blocks.read(index) if hasattr(blocks, "read") else blocks[index]


def write_block(blocks, index, block):
    """The blocks with number `index` replaced."""
    if hasattr(blocks, "write"):
        return blocks.write(index, block)
    if keras.backend.backend() == "jax":
        return blocks.at[index].set(block)
    blocks[index] = block
    return blocks


def loop(begin, end, step: Callable, carried: tuple, *, side_by_side: int = 1) -> tuple:
    """What `step(i, *carried)` returns, for i from `begin` to `end` - 1, is carried to the next.

    Args:
        side_by_side: How many steps TensorFlow may work on at once, as far as they do not wait for what is carried. Its
            ten would hold the blocks of ten.
    """
    first = ops.convert_to_tensor(begin, "int32")

    def body(i, *carried):
        return i + 1, *step(i, *carried)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        loop_vars = (first, *carried)
        return tf.while_loop(lambda i, *_: i < end, body, loop_vars, parallel_iterations=side_by_side)[1:]
    return ops.while_loop(lambda i, *_: i < end, body, (first, *carried))[1:]


def stack_blocks(blocks):
    """(count, ...), once the loop has ended."""
    return blocks.stack() if hasattr(blocks, "stack") else blocks


def after(x, *others):
    """`x`, once the others are computed, as far as they are tensors.

    A TensorFlow graph writes a result over an operand that nothing waits for any more: what is read first is done
    first.
    """
    others = [other for other in others if ops.is_tensor(other)]
    if keras.backend.backend() != "tensorflow" or not others:
        return x
    import tensorflow as tf

    with tf.control_dependencies(others):
        return tf.identity(x)


def with_gradient(forward: Callable, backward: Callable) -> Callable:
    """A function of tensors whose gradient is written out. First derivatives only.

    Args:
        forward: Takes tensors, returns the output and what `backward` wants to know.
        backward: Takes that and the gradient of the output, returns one gradient for each tensor, None for what has
            none, such as integers.

    Returns:
        A function of the same tensors that returns the output.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def function(*tensors):
            output, kept = forward(*tensors)
            return output, lambda upstream: backward(kept, upstream)

        # The value of a variable, which TensorFlow would want named in the gradient.
        return lambda *tensors: function(*map(tf.convert_to_tensor, tensors))
    if keras.backend.backend() == "jax":
        import jax

        function = jax.custom_vjp(lambda *tensors: forward(*tensors)[0])
        function.defvjp(forward, lambda kept, upstream: tuple(backward(kept, upstream)))
        return function
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            output, kept = forward(*tensors)
            ctx.kept = kept
            return output

        @staticmethod
        def backward(ctx, upstream):
            return tuple(backward(ctx.kept, upstream))

    return Function.apply
