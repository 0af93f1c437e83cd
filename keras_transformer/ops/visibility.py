"""What may be seen: a description of it, made a matrix for any block of queries and keys, or for all of them."""

import dataclasses
from typing import Any

from keras import ops

from keras_transformer.ops.masks import attention_mask


@dataclasses.dataclass(frozen=True)
class Visibility:
    """Which keys each query may attend to, described.

    A query at position t may attend to a key at position s if the key is real, in the same segment, (causal) not after
    it, (window) closer than `window` positions, and `mask` allows it.

    Args:
        causal: Whether a query looks at its own and earlier positions only.
        window: How many positions a query sees, its own included, to each side that `causal` leaves open.
        key_mask: (B, S), bool. False for padding.
        query_segments, key_segments: (B, T) and (B, S), int. Packed sequences attend within their segment only.
        mask: (T, S), (B, T, S) or (B, 1 or H, T, S), bool. A mask of the caller's own.
        query_positions, key_positions: (1 or B, T) and (1 or B, S), int. None where they count up from 0, which is what
            lets blocks be left out.
    """

    causal: bool = False
    window: int | None = None
    key_mask: Any = None
    query_segments: Any = None
    key_segments: Any = None
    mask: Any = None
    query_positions: Any = None
    key_positions: Any = None

    @property
    def counts_up(self) -> bool:
        """Whether positions simply count up from 0."""
        return self.query_positions is None and self.key_positions is None

    @property
    def has_masks(self) -> bool:
        """Whether anything but positions restricts what may be seen."""
        return any(x is not None for x in (self.key_mask, self.query_segments, self.mask))

    def positions(self, length, keys):
        """The positions of `length` queries and of `keys` keys."""
        positions = self.query_positions, self.key_positions
        return tuple(
            ops.expand_dims(ops.arange(count, dtype="int32"), 0) if given is None else given
            for given, count in zip(positions, (length, keys), strict=True)
        )

    def dense(self, length, keys):
        """The mask, (B or 1, 1 or H, T or 1, S), or None when nothing is restricted."""
        return attention_mask(
            *self.positions(length, keys),
            causal=self.causal,
            window=self.window,
            key_mask=self.key_mask,
            query_segments=self.query_segments,
            key_segments=self.key_segments,
            mask=self.mask,
        )
