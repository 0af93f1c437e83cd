"""Checks of what a layer is given. Each failure names the layer, what it got and what it takes."""

import sys

import keras
import numpy as np
from keras import ops

from keras_transformer.ops.activations import quick_gelu, tanh_gelu
from keras_transformer.ops.masks import boolean

OWN_ACTIVATIONS = {"quick_gelu": quick_gelu, "tanh_gelu": tanh_gelu}


def describe(layer) -> str:
    """How an error message names a layer: its class and its name."""
    return f"{type(layer).__name__} '{layer.name}'"


def is_ragged(value) -> bool:
    """Whether a value is a ragged tensor. Who has one has imported TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return isinstance(value, getattr(tensorflow, "RaggedTensor", ()))


def check_dense(layer, values, remedy: str) -> None:
    """Raise ValueError if one of the values that a layer is called on is ragged."""
    if any(map(is_ragged, values)):
        raise ValueError(f"{describe(layer)} takes dense tensors, got a ragged one. {remedy}")


def floats(layer, x):
    """`x`, integers in the type that a layer computes in. Keras casts floats only; what is added may be none."""
    return x if "float" in keras.backend.standardize_dtype(x.dtype) else ops.cast(x, layer.compute_dtype)


def check_positive(layer, **values) -> None:
    """Raise ValueError unless each value is a positive integer."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value <= 0:
            raise ValueError(f"{describe(layer)} takes a positive integer as {name}, got {value!r}.")


def check_above_zero(layer, **values) -> None:
    """Raise ValueError unless each value is a positive number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
            raise ValueError(f"{describe(layer)} takes a positive {name}, got {value!r}.")


def check_id(layer, vocabulary_size: int, **values) -> None:
    """Raise ValueError unless each value is an id of the vocabulary."""
    for name, value in values.items():
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_integer or not 0 <= value < vocabulary_size:
            raise ValueError(
                f"{describe(layer)} takes an id from 0 to {vocabulary_size - 1} as {name}, or None, got {value!r}."
            )


def check_integer_from_zero(layer, **values) -> None:
    """Raise ValueError unless each value is an integer, and not negative."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"{describe(layer)} takes an integer from 0 on as {name}, got {value!r}.")


def check_rate(layer, **values) -> None:
    """Raise ValueError unless each value is a dropout rate, in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{describe(layer)} takes a rate in [0, 1) as {name}, got {value!r}.")


def check_seed(layer, rate) -> None:
    """Raise ValueError if `rate` was set on a layer that was made without dropout, which has no random numbers."""
    if rate and getattr(layer, "seed_generator", None) is None:  # Keras' Dropout of rate 0 has not even the name
        raise ValueError(
            f"{describe(layer)} was made with a dropout rate of 0, and so without random numbers; its rate was set to "
            f"{rate!r} later. Make it with a rate above 0: that may be set to 0 and back at any time."
        )


def check_choice(layer, name: str, value, choices) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{describe(layer)} takes one of {sorted(choices)} as {name}, got {value!r}.")


def check_sequence(layer, name: str, shape, width: int | None = None) -> None:
    """Raise ValueError unless `shape` is (batch, length, width), of the given width if there is one."""
    shape = tuple(shape)
    if len(shape) != 3:
        raise ValueError(f"{describe(layer)} takes {name} of shape (batch, length, width), got {shape}.")
    if shape[-1] is None:
        raise ValueError(f"{describe(layer)} takes {name} of a known width (its last dimension), got {shape}.")
    if width is not None and shape[-1] != width:
        raise ValueError(f"{describe(layer)} takes {name} of width {width}, got width {shape[-1]} (shape {shape}).")


def check_tokens(layer, sequence_shape, **values) -> None:
    """Raise ValueError unless each value that is given has an entry for each token, (batch, length)."""
    expected = tuple(sequence_shape)[:2]
    for name, value in values.items():
        if value is None:
            continue
        shape = tuple(value.shape)
        if len(shape) != 2 or any(
            got is not None and want is not None and got != want and got != 1
            for got, want in zip(shape, expected, strict=True)
        ):
            raise ValueError(f"{describe(layer)} takes {name} of shape (batch, length) = {expected}, got {shape}.")


def token_mask(layer, sequence, name: str, mask):
    """The padding mask of `sequence` (B, T, D) as booleans (B, T), or None. One of shape (B,), which
    `keras.layers.TimeDistributed` hands over where it has one of its own, is of whole rows.

    Raises:
        ValueError: If it has another shape, or is known to hold other values than 0 and 1.
    """
    if mask is None:
        return None
    of_rows = len(mask.shape) == 1 and (
        None in (mask.shape[0], sequence.shape[0]) or mask.shape[0] == sequence.shape[0]
    )
    mask = boolean(describe(layer), ops.expand_dims(mask, 1) if of_rows else mask, name)
    check_tokens(layer, sequence.shape, **{name: mask})
    if mask.shape[1] == 1 and sequence.shape[1] != 1:
        mask = ops.logical_and(mask, ops.ones_like(sequence[:, :, 0], dtype="bool"))
    return mask


def check_mask(layer, mask, heads: int, query_shape, key_shape) -> None:
    """Raise ValueError unless an attention mask fits (B, H, T, S) as far as its static shape tells."""
    expected = (query_shape[0], heads, query_shape[1], key_shape[1])
    shape = tuple(mask.shape)
    aligned = {2: expected[2:], 3: (expected[0], *expected[2:]), 4: expected}.get(len(shape))
    fits = aligned is not None and all(
        got is None or want is None or got == want or got == 1 for got, want in zip(shape, aligned, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{describe(layer)} takes an attention_mask of shape (T, S), (B, T, S) or (B, heads, T, S) "
            f"with (B, heads, T, S) = {expected}, got {shape}."
        )


def get_activation(layer, activation):
    """The activation function of that name, or the function itself."""
    if isinstance(activation, str) and activation in OWN_ACTIVATIONS:
        return OWN_ACTIVATIONS[activation]
    try:
        return keras.activations.get(activation)
    except ValueError:
        raise ValueError(
            f"{describe(layer)} takes the name of a Keras activation ('relu', 'gelu', 'silu', ...), "
            f"{' or '.join(map(repr, OWN_ACTIVATIONS))}, or a function as activation, got {activation!r}."
        ) from None
