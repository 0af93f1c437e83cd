"""The ambient contexts that layers consult: `Decoding`, which keeps what earlier tokens left, and `Recording`.

Both are ambient, as `keras.StatelessScope` is, so that a layer deep inside any functional model takes part without
an argument being handed down. Outside a context every question a layer asks here is answered by the identity.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import keras
from keras import ops

from keras_transformer.ops.cache import empty, write

_DECODING: ContextVar["Decoding | None"] = ContextVar("decoding", default=None)
_RECORDING: ContextVar["Recording | None"] = ContextVar("recording", default=None)


def decoding() -> "Decoding | None":
    """The decoding context that is active, or None."""
    return _DECODING.get()


@contextlib.contextmanager
def active(context: "Decoding | Recording") -> Iterator:
    """Make a context the active one of its kind."""
    variable = _DECODING if isinstance(context, Decoding) else _RECORDING
    token = variable.set(context)
    try:
        yield context
    finally:
        variable.reset(token)


class _CallNames:
    """A name for each call of a layer: its path, and a number from the second call of that path on."""

    def __init__(self):
        self._calls = Counter()

    def next(self, layer) -> str:
        """The name of the call that `layer` is making now."""
        number = self._calls[layer.path]
        self._calls[layer.path] += 1
        return f"{layer.path}:{number}" if number else layer.path


class Decoding:
    """One step of incremental decoding: new tokens come in, the state of all earlier ones is read and extended.

    The token at position p of a row lives in slot p of that row's cache, whatever the row was batched with. A
    prompt that is padded on the right leaves garbage in the slots behind its end; causality hides them, and the
    row's own later tokens overwrite them. So a position is all that a row needs to know. A layer that sees a window
    only keeps a ring: position p lives in slot p modulo the ring's size. So does a recurrent layer, of the states that
    the last tokens left: a token finds the state of the one before it by its own position, also when tokens have been
    taken back.

    Beams are further queries of the same row. The N tokens of a step stand at one position, each in a part of the
    cache of its own, and `ancestry` tells which beam wrote the token that a beam has at each position. So nothing
    is reordered when beams branch off, a prompt is kept once, and whatever belongs to the row (a memory, its
    mask) is shared by its beams without a copy.

    `state` (what changes from step to step) and `memory` (what does not) are flat dicts of tensors of rank 4 or
    less: pure inputs and, after the step, outputs. What is not in them yet is created, so the first step of a
    sequence, given empty ones, makes them. `initial` is the state as it was created, before any token was read.

    Args:
        state: What the previous step left. The dict itself is not changed.
        memory: What the first step of the sequence left. The dict itself is not changed.
        positions: (B, T), int32. Position of each new token in its row; with beams, the same one N times.
        length: The longest sequence L that can be decoded.
        lengths: (B,), int32. Where each row ends, if some of the new tokens are not to be kept; may be 0.
        beams: Number of beams N.
        ancestry: (B, N, L), int32. The beam that wrote each position of each beam; None while there is one beam, or
            while the prompt is read, which belongs to beam 0.
        lookahead: How many tokens a step may write that are taken back later (speculative decoding).
    """

    def __init__(
        self,
        state: dict,
        memory: dict,
        positions,
        length: int,
        *,
        lengths=None,
        beams: int = 1,
        ancestry=None,
        lookahead: int = 0,
    ):
        self.state = dict(state)
        self.initial = {}
        self.memory = dict(memory)
        self.positions = positions
        self.length = length
        self.lengths = lengths
        self.beams = beams
        self.ancestry = ancestry
        self.lookahead = lookahead
        self._names = _CallNames()

    def extend(self, layer, key, value, window: int | None = None):
        """Add the new tokens' keys and values, (B, G, T, K), to the cache, and return those that they may look at.

        Args:
            layer: The layer that asks.
            key, value: Of the new tokens.
            window: How many positions back a token sees, itself included; None for all.

        Returns:
            Keys and values (B, G, S, K), the position of each, (1 or B, S), or one after all others for a slot that
            is empty, and which of them each new token may see, (B, T, S), or None if its position alone decides.
        """
        name = self._names.next(layer)
        is_ring = window is not None and window + self.lookahead < self.length
        size = window + self.lookahead if is_ring else self.length  # C
        empty = f"{name}/key" not in self.state
        caches = [self._cache(f"{name}/{part}", new, size, is_ring) for part, new in (("key", key), ("value", value))]
        slots = self._slots(size, is_ring)
        # Of what several tokens see in a ring, they overwrite some: they look at the ring as it was, and at themselves.
        looks_back = is_ring and self.ancestry is None and key.shape[2] != 1
        written = [write(cache, new, slots, looks_back) for cache, new in zip(caches, (key, value), strict=True)]
        self.state.update(zip((f"{name}/key", f"{name}/value"), written, strict=True))

        if empty and key.shape[2] != 1:
            return key, value, self.positions, None
        if looks_back:
            before = self._slot_positions(self.positions[:, :1] - 1, size, is_ring)
            both = [ops.concatenate([x[:, :, :size], new], axis=2) for x, new in zip(caches, (key, value), strict=True)]
            return *both, ops.concatenate([before, self.positions], axis=1), None
        positions = self._slot_positions(self.positions[:, :1], size, is_ring)
        if self.ancestry is None:
            if is_ring or self.beams > 1:
                written = [x[:, :, :size] for x in written]
            return *written, positions, None
        if is_ring:
            written = [x[:, :, : self.beams * size] for x in written]
        visible = self._visible(positions if is_ring else None)
        return *written, ops.tile(positions, [1, self.beams]), visible

    def _cache(self, name: str, new, size: int, is_ring: bool):
        """The cache (B, G, N C, K) as it is, or an empty one. A ring has one more slot, for what is thrown away."""
        if name in self.state:
            return self.state[name]
        batch, heads, _, width = ops.shape(new)
        dtype = keras.backend.standardize_dtype(new.dtype)
        self.initial[name] = empty((batch, heads, self.beams * size + is_ring, width), dtype)
        return self.initial[name]

    def _slots(self, size: int, is_ring: bool):
        """Where each new token is written, (B, T)."""
        slots = ops.mod(self.positions, size) if is_ring else self.positions
        if self.ancestry is not None:
            return slots + size * ops.arange(self.beams, dtype="int32")
        if is_ring and self.lengths is not None:
            ends = ops.expand_dims(self.lengths, 1)
            kept = ops.logical_and(self.positions < ends, self.positions >= ends - size)
            return ops.where(kept, slots, self.beams * size)
        return slots

    def _slot_positions(self, latest, size: int, is_ring: bool):
        """The position of the token in each slot, (1 or B, C), when `latest` (B, 1) was the last one written. Where
        there is none, it is one after all others."""
        slots = ops.expand_dims(ops.arange(size, dtype="int32"), 0)
        if not is_ring:
            return slots
        positions = latest - ops.mod(latest - slots, size)
        return ops.where(positions < 0, self.length, positions)

    def _visible(self, positions):
        """Which slots each beam sees, (B, N, N C): at each position, the one of the beam that it descends from."""
        ancestry = self.ancestry
        if positions is not None:  # of the slots of a ring, (B, C)
            index = ops.expand_dims(ops.minimum(positions, self.length - 1), 1) + ops.zeros_like(ancestry[:, :, :1])
            ancestry = ops.take_along_axis(ancestry, index, axis=2)  # (B, N, C)
        beam = ops.reshape(ops.arange(self.beams, dtype="int32"), (1, 1, -1, 1))
        visible = ops.expand_dims(ancestry, 2) == beam  # (B, N, N, C)
        return ops.reshape(visible, (-1, self.beams, self.beams * visible.shape[3]))

    def recur(self, layer, inputs, initial: list, step: Callable, scan: Callable):
        """The outputs (B, T, O) of a recurrence over the new tokens, each from the state that the one before it left.

        Args:
            layer: The layer that asks.
            inputs: (B, T, D), of the new tokens.
            initial: The states before the first token of a sequence, (B, U) each.
            step: A function of N inputs (B, N, D) and the states (B, N, U) before each, which returns N outputs and the
                states after each: tokens side by side.
            scan: A function of inputs (B, T, D), states (B, U) and a mask (B, T), which returns T outputs and the
                states after the last token that the mask keeps: one token after another.
        """
        name = self._names.next(layer)
        names = [f"{name}/{number}" for number in range(len(initial))]
        size = self.lookahead + 2  # C: of the tokens that may be taken back, the one before them, and the new one
        for key, value in zip(names, initial, strict=True):
            if key not in self.state:  # the state "after position -1" is found in whatever slot that is
                value = ops.expand_dims(ops.expand_dims(value, 1), 1)
                self.state[key] = self.initial[key] = ops.tile(value, [1, self.beams, size, 1])  # (B, N, C, U)

        def before(positions, beams=0):
            """The states (B, T, U) of `beams` before the tokens at `positions`, (B, T)."""
            return [_take(self.state[key], beams, ops.mod(positions - 1, size)) for key in names]

        def leave(states, positions):
            """Keep the states (B, 1 or N, U) after the tokens at `positions`, (B, 1), of all beams."""
            for key, new in zip(names, states, strict=True):
                new = new if new.shape[1] == self.beams else ops.repeat(new, self.beams, axis=1)
                self.state[key] = write(self.state[key], ops.expand_dims(new, 2), ops.mod(positions, size), keep=True)

        first, last = self.positions[:, :1], self.positions[:, -1:]
        if self.lengths is not None:
            ends = ops.expand_dims(self.lengths, 1)
            states = [state[:, 0] for state in before(ops.minimum(first, ends))]
            outputs, states = scan(inputs, states, self.positions < ends)
            leave([ops.expand_dims(state, 1) for state in states], ops.minimum(last, ends - 1))
            return outputs
        if self.ancestry is not None:
            index = ops.expand_dims(ops.maximum(first - 1, 0), 1) + ops.zeros_like(self.ancestry[:, :, :1])
            parents = ops.take_along_axis(self.ancestry, index, axis=2)[:, :, 0]  # (B, N)
            outputs, states = step(inputs, before(self.positions, parents))
            leave(states, first)
            return outputs
        outputs = []
        for place in range(inputs.shape[1]):  # successive ones, of which some may stand at one position (speculation)
            positions = self.positions[:, place : place + 1]
            output, states = step(inputs[:, place : place + 1], before(positions))
            leave(states, positions)
            outputs.append(output)
        return ops.concatenate(outputs, axis=1)

    def keep(self, layer, project: Callable):
        """What `project()` returns, computed at the first step of a sequence only (keys and values of a memory)."""
        name = self._names.next(layer)
        slots = (f"{name}/key", f"{name}/value")
        if slots[0] not in self.memory:
            self.memory.update(zip(slots, project(), strict=True))
        return tuple(self.memory[slot] for slot in slots)


def _take(rings, beams, slots):
    """Of rings (B, N, C, U), what stands in `slots` (B, T) of the parts of `beams`, a number or (B, T): (B, T, U)."""
    batch, parts, size, width = ops.shape(rings)
    rows = ops.expand_dims(ops.arange(batch, dtype="int32"), 1)
    return ops.take(ops.reshape(rings, (-1, width)), (rows * parts + beams) * size + slots, axis=0)


class Recording:
    """Keeps the attention weights of every attention layer that runs while it is active.

    Attributes:
        scores: (B, H, T, S) by call; `to_memory`: the names of those calls that attend to a memory.
    """

    def __init__(self):
        self.scores = {}
        self.to_memory = []
        self._names = _CallNames()

    def add(self, layer, scores, to_memory: bool) -> None:
        """Keep the weights (B, H, T, S) of one call of `layer`."""
        name = self._names.next(layer)
        self.scores[name] = scores
        if to_memory:
            self.to_memory.append(name)


def is_recording() -> bool:
    """Whether somebody wants attention weights."""
    return _RECORDING.get() is not None


def record(layer, scores, *, to_memory: bool = False) -> None:
    """Hand attention weights to the active recording, if there is one."""
    recording = _RECORDING.get()
    if recording is not None:
        recording.add(layer, scores, to_memory)
