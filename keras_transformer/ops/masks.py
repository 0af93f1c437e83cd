"""One boolean mask out of padding, causality, window and segments. True = may attend."""

from keras import ops


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
        key_mask: (B, S), bool. False for padding.
        query_segments, key_segments: (B, T) and (B, S), int. Packed sequences attend within their segment only.
        mask: (T, S), (B, T, S) or (B, 1 or H, T, S), bool. A mask of the caller's own.

    Returns:
        Bool, (B or 1, 1 or H, T or 1, S), or None when nothing is restricted.

    Example:

    >>> import numpy as np
    >>> positions = np.arange(3)[None]
    >>> np.array(attention_mask(positions, positions, causal=True))[0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    parts = []
    if causal or window is not None:
        distance = ops.expand_dims(query_positions, -1) - ops.expand_dims(key_positions, -2)  # (1|B, T, S)
        if causal:
            parts.append(ops.expand_dims(distance >= 0, 1))
        if window is not None:
            parts.append(ops.expand_dims(ops.abs(distance) < window, 1))
    if key_mask is not None:
        parts.append(ops.expand_dims(ops.expand_dims(ops.cast(key_mask, "bool"), 1), 1))  # (B, 1, 1, S)
    if query_segments is not None:
        same = ops.equal(ops.expand_dims(query_segments, -1), ops.expand_dims(key_segments, -2))
        parts.append(ops.expand_dims(same, 1))  # (B, 1, T, S)
    if mask is not None:
        mask = ops.cast(mask, "bool")
        while len(mask.shape) < 4:
            mask = ops.expand_dims(mask, 0 if len(mask.shape) == 2 else 1)
        parts.append(mask)
    combined = None
    for part in parts:
        combined = part if combined is None else ops.logical_and(combined, part)
    return combined
