"""Caches: where the tokens of a layer live from step to step, and what of them new tokens see.

A `Whole` cache has a slot for each position; a `Ring` has as many as a window and the tokens that may be taken back,
and position p lives in slot p modulo that number. With N beams a slot is N cells side by side, one a beam, so that what
the beams of a row write at a step is one run of cells. A prompt belongs to beam 0. `States` are rings of what a
recurrence leaves.

Each is made for one step of decoding, a `keras_transformer.context.Decoding`, and has no tensors of its own: what it
writes to and reads from is handed in.
"""

import keras
from keras import ops

from keras_transformer.ops.cache import empty, write


def cache_of(step, window: int | None) -> "Whole":
    """The cache of a layer that sees `window` positions back, itself included; None for all."""
    size = step.length if window is None else min(window + step.lookahead, step.length)
    return (Whole if size == step.length else Ring)(step, size)


class Whole:
    """A slot for each position.

    Args:
        step: The step of decoding.
        size: Number of slots C.
    """

    def __init__(self, step, size: int):
        self.step = step
        self.size = size

    def empty(self, new):
        """A cache (B, G, C N, K) for what is like `new`, (B, G, T, K)."""
        batch, heads, _, width = ops.shape(new)
        dtype = keras.backend.standardize_dtype(new.dtype)
        return empty((batch, heads, self.size * self.step.beams, width), dtype)

    def extend(self, cache, new):
        """The cache with the new tokens (B, G, T, K), or those of N beams at one position, (B, G, N, K), and what of it
        these look at, (B, G, S, K). Nothing but the first is computed from `cache` once it is there, so that the two
        may be one piece of memory."""
        after = self._write(cache, new)
        return after, self._first_beam(after) if self.step.ancestry is None else after

    def seen(self):
        """The position of each token that is looked at, (1 or B, S), or one after all others for a slot that is empty;
        and which of them each new token may see, (B, T, S), or None if its position alone decides."""
        step = self.step
        positions = self.positions(step.positions[:, :1])
        if step.ancestry is None:
            return positions, None
        return ops.repeat(positions, step.beams, axis=1), self._visible()

    def slots(self, positions):
        """Where the tokens at `positions` live."""
        return positions

    def positions(self, latest):
        """The position of the token in each slot, (1 or B, C), when `latest` (B, 1) was the last one written. Where
        there is none, it is one after all others."""
        return self._all_slots()

    def ancestry(self):
        """The beam (B, N, C) that wrote what each beam sees in each slot."""
        return self.step.ancestry

    def _write(self, cache, new):
        step = self.step
        slots = self.slots(step.positions)
        if step.ancestry is None:
            new = self._of_first_beam(new)
        else:
            slots = slots[:, :1]
        beams = ops.arange(step.beams, dtype="int32")
        cells = ops.reshape(ops.expand_dims(slots, 2) * step.beams + beams, (-1, ops.shape(new)[2]))
        # Rows read their prompts together; behind these, each stands at a position of its own.
        is_run = step.is_prompt or (new.shape[0] == 1 and slots.shape[1] == 1)
        return write(cache, new, cells, is_run=is_run)

    def _visible(self):
        """Which cells each beam sees, (B, N, C N): in each slot, the one of the beam that it descends from."""
        beams = self.step.beams
        visible = ops.expand_dims(self.ancestry(), 3) == ops.arange(beams, dtype="int32")
        return ops.reshape(visible, (-1, beams, self.size * beams))

    def _all_slots(self):
        return ops.expand_dims(ops.arange(self.size, dtype="int32"), 0)

    def _first_beam(self, cache):
        """Of the cells (B, G, C N, K) those of the first beam, (B, G, C, K)."""
        return cache if self.step.beams == 1 else cache[:, :, :: self.step.beams]

    def _of_first_beam(self, new):
        """Cells (B, G, T N, K), in which the first beam has the tokens (B, G, T, K), and the others have nothing."""
        beams = self.step.beams
        if beams == 1:
            return new
        batch, heads, length, width = ops.shape(new)
        cells = ops.pad(ops.expand_dims(new, 3), [[0, 0]] * 3 + [[0, beams - 1], [0, 0]])
        return ops.reshape(cells, (batch, heads, length * beams, width))


class Ring(Whole):
    """As many slots as a window has positions: a token overwrites the one that has just left it."""

    def extend(self, cache, new):
        if not self._is_successive(new.shape[2]):
            return super().extend(cache, new)
        # They overwrite some of what the first of them sees, so they look at the ring as it was, and at themselves.
        both = ops.concatenate([self._first_beam(cache), new], axis=2)
        # Each slot takes the last token that belongs there, or keeps its own.
        step = self.step
        last = step.positions[:, -1:]
        if step.is_prompt:  # of which the end is padding in some rows
            last = ops.minimum(last, ops.expand_dims(step.lengths, 1) - 1)
        place = self._latest(last) - step.positions[:, :1]  # (B, C), among the new tokens; negative for an older one
        place = ops.where(place < 0, self._all_slots(), self.size + place)
        return self._of_first_beam(_take_tokens(both, place)), both

    def seen(self):
        positions = self.step.positions
        if not self._is_successive(positions.shape[1]):
            return super().seen()
        return ops.concatenate([self.positions(positions[:, :1] - 1), positions], axis=1), None

    def slots(self, positions):
        return ops.mod(positions, self.size)

    def positions(self, latest):
        positions = self._latest(latest)
        return ops.where(positions < 0, self.step.length, positions)

    def ancestry(self):
        step = self.step
        positions = ops.minimum(self.positions(step.positions[:, :1]), step.length - 1)
        index = ops.expand_dims(positions, 1) + ops.zeros_like(step.ancestry[:, :, :1])
        return ops.take_along_axis(step.ancestry, index, axis=2)

    def _is_successive(self, count: int) -> bool:
        """Whether the new tokens are several of one sequence; a prompt may also have none, in rows that have ended."""
        return self.step.is_prompt or (self.step.ancestry is None and count != 1)

    def _latest(self, latest):
        """The last position (B, C) up to `latest` (B, 1) that belongs into each slot; negative if there is none."""
        return latest - ops.mod(latest - self._all_slots(), self.size)


class States:
    """Rings of the states that the last tokens left, (B, N, C, U): a token finds the state of the one before it by its
    own position, also when tokens have been taken back. The state "after position -1" is the initial one."""

    def __init__(self, step):
        self.step = step
        self.size = step.lookahead + 2  # C: of the tokens that may be taken back, the one before them, and the new one

    def empty(self, initial):
        """Rings of the initial states (B, U), which are found in whatever slot is asked for."""
        initial = ops.expand_dims(ops.expand_dims(initial, 1), 1)
        return ops.tile(initial, [1, self.step.beams, self.size, 1])

    def before(self, rings, positions, beams=0):
        """The states (B, T, U) of `beams`, a number or (B, T), before the tokens at `positions`, (B, T)."""
        batch, parts, size, width = ops.shape(rings)
        rows = ops.expand_dims(ops.arange(batch, dtype="int32"), 1)
        places = (rows * parts + beams) * size + ops.mod(positions - 1, size)
        return ops.take(ops.reshape(rings, (-1, width)), places, axis=0)

    def write(self, rings, new, positions):
        """The rings with the states (B, 1 or N, U) after the tokens at `positions`, (B, 1), of all beams."""
        new = new if new.shape[1] == self.step.beams else ops.repeat(new, self.step.beams, axis=1)
        slots = ops.mod(positions, self.size)
        return write(rings, ops.expand_dims(new, 2), slots, is_run=new.shape[0] == 1, keep=True)

    def parents(self):
        """The beam (B, N) that wrote the last token of each."""
        ancestry = self.step.ancestry
        index = ops.expand_dims(ops.maximum(self.step.positions[:, :1] - 1, 0), 1) + ops.zeros_like(ancestry[:, :, :1])
        return ops.take_along_axis(ancestry, index, axis=2)[:, :, 0]


def _take_tokens(tokens, places):
    """Of tokens (B, G, T, K), those at the places (B, C) of each row: (B, G, C, K)."""
    if places.shape[0] == 1:
        return ops.take(tokens, places[0], axis=2)
    batch, heads, length, width = ops.shape(tokens)
    rows = ops.reshape(ops.arange(batch * heads, dtype="int32"), (batch, heads, 1)) * length
    return ops.take(ops.reshape(tokens, (-1, width)), rows + ops.expand_dims(places, 1), axis=0)
