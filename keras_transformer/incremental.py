"""What a layer of one's own needs to generate token by token: where tokens stand, and what earlier ones left.

While a model generates, a layer is called on the new tokens alone. What it keeps of those before, it keeps by the
functions here, which know of rows, beams, prompts of different lengths and tokens that are taken back. Outside of
generation each is what it is for a whole sequence, so that a layer has one `call` for both.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_transformer.context import decoding
from keras_transformer.layers.positional_encoding import current_positions
from keras_transformer.layers.scan import scan

__all__ = ["extend", "is_generating", "keep", "positions", "recur"]


def is_generating() -> bool:
    """Whether a layer is called on new tokens alone, rather than on whole sequences.

    Example:

    >>> import keras_transformer as kt
    >>> kt.incremental.is_generating()
    False
    """
    return decoding() is not None


def positions(layer: keras.layers.Layer, inputs, given=None):
    """The positions of the tokens in `inputs`.

    Args:
        layer: The layer that asks.
        inputs: (B, T, ...).
        given: (B, T), int, where they do not count up from 0, as in packed sequences; None in generation.

    Returns:
        (1 or B, T), int.

    Raises:
        ValueError: If they are given in generation, which counts by itself.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> np.array(kt.incremental.positions(keras.layers.Layer(), np.zeros((2, 3, 8)))).tolist()
    [[0, 1, 2]]
    """
    return current_positions(layer, inputs, given)


def extend(layer: keras.layers.Layer, key, value, window: int | None = None):
    """The keys and values of all tokens so far, and which of them each new token may see.

    Args:
        layer: The layer that asks.
        key, value: (B, G, T, K), of the new tokens, rotated by their positions if they are to be. Any two tensors that
            have something for each token will do; K may be different.
        window: How many positions back a token sees, itself included; None for all. With one, no more than that is
            kept.

    Returns:
        Keys and values (B, G, S, K); the position of each, (1 or B, S), int; and (1 or B, T, S), bool: whether it is
        not later than the new token, within its window, and of its own beam. Padding is not left out, since it stands
        behind all that a token may see; on the left of a sequence, a mask of one's own has to.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> key = value = np.zeros((1, 2, 3, 5), "float32")
    >>> *_, visible = kt.incremental.extend(keras.layers.Layer(), key, value, window=2)
    >>> np.array(visible).astype(int).tolist()
    [[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]
    """
    context, visible = decoding(), None
    new = key_positions = current_positions(layer, key[:, 0])
    if context is not None:
        key, value, key_positions, visible = context.extend(layer, key, value, window)
    distance = ops.expand_dims(new, 2) - ops.expand_dims(key_positions, 1)  # (1 or B, T, S)
    seen = distance >= 0
    if window is not None:
        seen = ops.logical_and(seen, distance < window)
    return key, value, key_positions, seen if visible is None else ops.logical_and(seen, visible)


def recur(layer: keras.layers.Layer, inputs, initial: list, step: Callable, mask=None):
    """The outputs of a recurrence: each token's follows from its input and the states that the token before it left.

    Args:
        layer: The layer that asks. Its dtype policy is that of the recurrence.
        inputs: (B, T, D).
        initial: The states before the first token, a list of (B, U).
        step: A function of inputs (B, N, D) and of a list of states (B, N, U), those before each of these N tokens,
            which stand side by side; it returns outputs (B, N, O) and a list of the states after each.
        mask: (B, T), bool, or None. At padding, states stay as they are. Generation knows where rows end.

    Returns:
        (B, T, O). On whole sequences it is a loop over tokens; where there is a faster way for those, take it unless
        `is_generating()`.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> def add(inputs, states):
    ...     total = states[0] + inputs
    ...     return total, [total]
    >>> sums = kt.incremental.recur(keras.layers.Layer(), np.ones((1, 3, 1), "float32"), [np.zeros((1, 1))], add)
    >>> np.array(sums).ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    inputs = ops.convert_to_tensor(inputs)
    initial = [ops.cast(state, inputs.dtype) for state in initial]
    context = decoding()
    if context is None:
        return scan(step, inputs, initial, mask, dtype=layer.dtype_policy)[0]

    def scan_prompt(inputs, states, kept):
        return scan(step, inputs, states, kept, dtype=layer.dtype_policy)

    return context.recur(layer, inputs, initial, step, scan_prompt)


def keep(layer: keras.layers.Layer, compute: Callable[[], tuple]) -> tuple:
    """What `compute()` returns, a pair of tensors (B, ...), computed once a sequence: what a layer makes of a memory.

    Args:
        layer: The layer that asks.
        compute: A function without arguments, of what does not depend on the tokens that are generated.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> memory = np.ones((1, 2, 3))
    >>> key, value = kt.incremental.keep(keras.layers.Layer(), lambda: (memory + 1, memory))
    >>> float(key[0, 0, 0])
    2.0
    """
    context = decoding()
    return compute() if context is None else context.keep(layer, compute)
