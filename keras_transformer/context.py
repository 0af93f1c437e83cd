"""The ambient contexts that layers consult: `Decoding`, which keeps what earlier tokens left, and `Recording`.

Both are ambient, as `keras.StatelessScope` is, so that a layer deep inside any functional model takes part without
an argument being handed down. Outside a context every question a layer asks here is answered by the identity.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from keras import ops

from keras_transformer.caches import States, cache_of

_DECODING: ContextVar["Decoding | None"] = ContextVar("decoding", default=None)
_RECORDING: ContextVar["Recording | None"] = ContextVar("recording", default=None)


def decoding() -> "Decoding | None":
    """The decoding context that is active, or None."""
    return _DECODING.get()


@contextlib.contextmanager
def active(context: "Decoding | Recording") -> Iterator:
    """Make a context the active one of its kind."""
    variable: ContextVar = _DECODING if isinstance(context, Decoding) else _RECORDING
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

    The token at position p of a row lives in the slot of its cache that p decides, whatever the row was batched with
    (`caches.py`). A prompt that is padded on the right leaves garbage in the slots behind its end; causality hides
    them, and the row's own later tokens overwrite them. So a position is all that a row needs to know.

    Beams are further queries of the same row. The N tokens of a step stand at one position, each in a cell of its own,
    and `ancestry` tells which beam wrote the token that a beam has at each position. So nothing is reordered when
    beams branch off, a prompt is kept once, and whatever belongs to the row (a memory, its mask) is shared by its
    beams without a copy.

    `state` (what changes from step to step) and `memory` (what does not) are flat dicts of tensors of rank 4 or
    less: pure inputs and, after the step, outputs. What is not in them yet is created, so the first step of a
    sequence, given empty ones, makes them. `initial` is the state as it was created, before any token was read.

    Args:
        state: What the previous step left. The dict itself is not changed.
        memory: What the first step of the sequence left. The dict itself is not changed.
        positions: (B, T), int32. Position of each new token in its row; with beams, the same one N times.
        length: The longest sequence L that can be decoded.
        lengths: (B,), int32. While the prompts are read, T tokens at the same positions in all rows: where each row
            ends; may be 0. What stands behind is not kept.
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

    @property
    def is_prompt(self) -> bool:
        """Whether the new tokens are a part of the prompts: in all rows at the same, successive positions."""
        return self.lengths is not None

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
        names, new = (f"{name}/key", f"{name}/value"), (key, value)
        cache = cache_of(self, window)
        is_first = names[0] not in self.state
        if is_first:
            self.initial.update(zip(names, map(cache.empty, new), strict=True))
        held = self.initial if is_first else self.state
        (keys, seen_keys), (values, seen_values) = (cache.extend(held[n], x) for n, x in zip(names, new, strict=True))
        self.state.update(zip(names, (keys, values), strict=True))
        if is_first and key.shape[2] != 1:  # there is nothing but themselves to look at
            return key, value, self.positions, None
        return seen_keys, seen_values, *cache.seen()

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
        name, rings = self._names.next(layer), States(self)
        names = [f"{name}/{number}" for number in range(len(initial))]
        for key, value in zip(names, initial, strict=True):
            if key not in self.state:
                self.state[key] = self.initial[key] = rings.empty(value)

        def before(positions, beams=0):
            return [rings.before(self.state[key], positions, beams) for key in names]

        def leave(states, positions):
            for key, new in zip(names, states, strict=True):
                self.state[key] = rings.write(self.state[key], new, positions)

        first, last = self.positions[:, :1], self.positions[:, -1:]
        if self.is_prompt:
            ends = ops.expand_dims(self.lengths, 1)
            states = [state[:, 0] for state in before(ops.minimum(first, ends))]
            outputs, states = scan(inputs, states, self.positions < ends)
            leave([ops.expand_dims(state, 1) for state in states], ops.minimum(last, ends - 1))
            return outputs
        if self.ancestry is not None:
            outputs, states = step(inputs, before(self.positions, rings.parents()))
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
