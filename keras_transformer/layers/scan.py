"""A recurrence over the tokens of a sequence, one after another."""

from collections.abc import Callable

import keras
from keras import ops


def scan(step: Callable, inputs, states: list, mask, *, dtype) -> tuple:
    """The outputs (B, T, O) of `step` from one token to the next, and the states (B, U) behind the last one.

    It is the loop of `keras.layers.RNN`.

    Args:
        step: A function of inputs (B, N, D) and of the states (B, N, U) before them, which returns N outputs and the
            states after each: tokens side by side.
        inputs: (B, T, D).
        states: Those before the first token, (B, U) each.
        mask: (B, T), bool, or None. Where it is False, states stay as they are.
        dtype: Policy of the outputs.
    """
    if mask is not None:  # handed on as an input: on JAX, the loop's own mask wants outputs as wide as the states
        inputs = ops.concatenate([inputs, ops.cast(ops.expand_dims(mask, -1), inputs.dtype)], axis=-1)

    def step_where_kept(inputs, states):
        outputs, new_states = step(inputs[:, :, :-1], states)
        kept = inputs[:, :, -1:] > 0
        return outputs, [ops.where(kept, new, old) for new, old in zip(new_states, states, strict=True)]

    sizes = [state.shape[-1] for state in states]
    compute_dtype = keras.backend.standardize_dtype(inputs.dtype)
    cell = _FunctionCell(step if mask is None else step_where_kept, sizes, compute_dtype)
    loop = keras.layers.RNN(cell, return_sequences=True, return_state=True, dtype=dtype, name="loop")
    outputs, *states = loop(inputs, initial_state=states)
    return outputs, states


class _FunctionCell:
    """A cell for `keras.layers.RNN` out of a step on tokens side by side, which may look at what its function sees."""

    def __init__(self, step: Callable, state_size: list[int], compute_dtype: str):
        self.step = step
        self.state_size = state_size
        self.compute_dtype = compute_dtype

    def __call__(self, inputs, states):
        outputs, states = self.step(ops.expand_dims(inputs, 1), [ops.expand_dims(state, 1) for state in states])
        return outputs[:, 0], [state[:, 0] for state in states]

    call = __call__  # by this name Keras knows a cell
