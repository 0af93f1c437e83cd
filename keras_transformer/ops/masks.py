"""One boolean mask out of padding, causality, window and segments. True = may attend."""

import keras
import numpy as np
from keras import ops

from keras_transformer.ops.runtime import concrete


def boolean(owner: str, mask, name: str = "mask"):
    """`mask` as booleans. It may hold 0 and 1 in any type.

    An additive mask, 0 for what may be attended to and -inf or a large negative number for what may not, would come
    out upside down. Where its values are known, it is refused; where not, `checked` sees to it.

    Raises:
        ValueError: If a value is known to be neither 0 nor 1.
    """
    if mask is None or _is_boolean(mask):
        return mask
    values = concrete(mask)
    wrong = () if values is None else values[(values != 0) & (values != 1)]
    if len(wrong):
        raise ValueError(
            f"{owner} takes 0 and 1, or booleans, as {name} (1 and True: may be attended to), got {np.ravel(wrong)[0]}."
            f" An additive mask, 0 for what may be attended to and a large negative number for what may not, becomes "
            f"one by `{name} == 0`."
        )
    return ops.not_equal(mask, 0)


def checked(x, *masks):
    """`x`, or NaN in its place if a mask holds other values than 0 and 1 that are known to a compiled function only."""
    for mask in masks:
        if mask is not None and not _is_boolean(mask) and concrete(mask) is None:
            valid = ops.all(ops.logical_or(ops.equal(mask, 0), ops.equal(mask, 1)))
            x = ops.where(valid, x, ops.cast(float("nan"), x.dtype))
    return x


def _is_boolean(mask) -> bool:
    return keras.backend.standardize_dtype(getattr(mask, "dtype", "float32")) == "bool"


def attention_mask(
    query_positions,
    key_positions,
    *,
    causal: bool = False,
    window: int | None = None,
    key_mask=None,
    query_segments=None,
    key_segments=None,
    mask=None,
):
    """Combine every restriction on attention into one mask.

    mask[b, 0, t, s] = key s is a real token, and lies in the same segment as query t, and (causal) not after it,
    and (window) closer to it than `window` positions.

    Args:
        query_positions: (1 or B, T), int. Position of each query in its sequence.
        key_positions: (1 or B, S), int. Position of each key in its sequence.
        causal: Whether a query may look at its own and earlier positions only.
        window: How many positions a query sees, its own included, to each side that `causal` leaves open
            ("Longformer", section 3.1; "Mistral 7B", section 2). None for all.
        key_mask: (B, S), bool, or 0 and 1. False for padding.
        query_segments, key_segments: (B, T) and (B, S), int. Packed sequences attend within their segment only.
        mask: (T, S), (B, T, S) or (B, 1 or H, T, S), bool, or 0 and 1. A mask of the caller's own.

    Returns:
        Bool, (B or 1, 1 or H, T or 1, S), or None when nothing is restricted.

    Raises:
        ValueError: If a mask holds other values than 0 and 1, or floats whose values are not known, within compiled
            functions: these may be an additive mask.

    Example:

    >>> import numpy as np
    >>> positions = np.arange(3)[None]
    >>> np.array(attention_mask(positions, positions, causal=True))[0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    key_mask, mask = _known("key_mask", key_mask), _known("mask", mask)
    parts = []
    if causal or window is not None:
        distance = ops.expand_dims(query_positions, -1) - ops.expand_dims(key_positions, -2)  # (1|B, T, S)
        if causal:
            parts.append(ops.expand_dims(distance >= 0, 1))
        if window is not None:
            parts.append(ops.expand_dims(ops.abs(distance) < window, 1))
    if key_mask is not None:
        parts.append(ops.expand_dims(ops.expand_dims(key_mask, 1), 1))  # (B, 1, 1, S)
    if query_segments is not None:
        same = ops.equal(ops.expand_dims(query_segments, -1), ops.expand_dims(key_segments, -2))
        parts.append(ops.expand_dims(same, 1))  # (B, 1, T, S)
    if mask is not None:
        while len(mask.shape) < 4:
            mask = ops.expand_dims(mask, 0 if len(mask.shape) == 2 else 1)
        parts.append(mask)
    combined = None
    for part in parts:
        combined = part if combined is None else ops.logical_and(combined, part)
    return combined


def _known(name: str, mask):
    floats = mask is not None and "float" in keras.backend.standardize_dtype(getattr(mask, "dtype", "float32"))
    if floats and concrete(mask) is None:
        raise ValueError(
            f"attention_mask takes booleans or integers as {name} within compiled functions, where it cannot tell a "
            f"mask of 0 and 1 from an additive one, got {mask.dtype}. Use `{name} > 0` of the one, `{name} == 0` of "
            "the other."
        )
    return boolean("attention_mask", mask, name)
