"""The ambient contexts that layers consult: `Decoding`, which keeps what earlier tokens left, and `Recording`.

Both are ambient, as `keras.StatelessScope` is, so that a layer deep inside any functional model takes part without
an argument being handed down. Outside a context every question a layer asks here is answered by the identity.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from keras import ops

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
    row's own later tokens overwrite them. So a position is all that a row needs to know.

    `state` (what changes from step to step) and `memory` (what does not) are flat dicts of tensors of rank 4 or
    less: pure inputs and, after the step, outputs. What is not in them yet is created, so the first step of a
    sequence, given empty ones, makes them.

    Args:
        state: What the previous step left. The dict itself is not changed.
        memory: What the first step of the sequence left. The dict itself is not changed.
        positions: (B, T), int32. Position of each new token in its row.
        length: Number of slots L in a cache: the longest sequence that can be decoded.
    """

    def __init__(self, state: dict, memory: dict, positions, length: int):
        self.state = dict(state)
        self.memory = dict(memory)
        self.positions = positions
        self.length = length
        self._names = _CallNames()

    def extend(self, layer, key, value):
        """Add the new tokens' keys and values, (B, G, T, K), to the cache, and return those of all tokens so far.

        Returns:
            Keys and values, (B, G, L, K), and the position of each slot, (1, L).
        """
        name = self._names.next(layer)
        extended = []
        for part, new in (("key", key), ("value", value)):
            slot = f"{name}/{part}"
            cache = self.state.get(slot)
            if cache is None:
                batch, heads, _, width = ops.shape(new)
                cache = ops.zeros((batch, heads, self.length, width), new.dtype)
            self.state[slot] = write(cache, new, self.positions)
            extended.append(self.state[slot])
        return *extended, ops.expand_dims(ops.arange(self.length, dtype="int32"), 0)

    def keep(self, layer, project: Callable):
        """What `project()` returns, computed at the first step of a sequence only (keys and values of a memory)."""
        name = self._names.next(layer)
        slots = (f"{name}/key", f"{name}/value")
        if slots[0] not in self.memory:
            self.memory.update(zip(slots, project(), strict=True))
        return tuple(self.memory[slot] for slot in slots)


def write(cache, new, positions):
    """Write `new` (B, G, T, K) into `cache` (B, G, L, K) at `positions` (B, T) of each row.

    A scatter: of the ways to write that need no XLA op, it alone costs the same however long the cache is
    (benchmarks/decoding_choices.py), and XLA performs it in place.
    """
    batch, heads, length, width = ops.shape(new)
    rows = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1))
    columns = ops.reshape(ops.arange(heads, dtype="int32"), (1, -1, 1))
    slots = ops.expand_dims(positions, 1)  # (B, 1, T)
    zero = ops.zeros_like(rows + columns + slots)
    indices = ops.stack([rows + zero, columns + zero, slots + zero], axis=-1)  # (B, G, T, 3)
    return ops.scatter_update(cache, ops.reshape(indices, (-1, 3)), ops.reshape(new, (-1, width)))


class Recording:
    """Keeps the attention weights of every attention layer that runs while it is active."""

    def __init__(self):
        self.scores = {}
        self._names = _CallNames()

    def add(self, layer, scores) -> None:
        """Keep the weights (B, H, T, S) of one call of `layer`."""
        self.scores[self._names.next(layer)] = scores


def record(layer, scores) -> None:
    """Hand attention weights to the active recording, if there is one."""
    recording = _RECORDING.get()
    if recording is not None:
        recording.add(layer, scores)
