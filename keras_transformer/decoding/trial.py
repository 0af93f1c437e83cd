"""Operations tried by themselves: do they act on each position alone, do they keep what they need, are they causal?"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_transformer._keras import get_mask, set_mask
from keras_transformer.context import Decoding, active
from keras_transformer.decoding.comparison import agree, as_array, precision
from keras_transformer.decoding.compiling import evaluate, failures
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.program import Instruction, run, without_cudnn
from keras_transformer.decoding.samples import BATCH, random_weights, sample_ids

SHORT = (11, 13)  # lengths that tell the time axis from others
ENTRIES = 2**24  # of tensors that are tried at once
CALCULATIONS = 2e10  # that covering all ids may cost
KINDS = ("normal", "between 0 and 1", "as seen")  # of random numbers: the first that it can be run on is taken
SIZES = (1, 30, 1000)  # of normal numbers: something may show beyond a threshold only
FEW = 3  # vectors or ids, of which sequences are made where the same ones come again and again


class Mixed(ValueError):
    """What is tried lets one position depend on others that it must not depend on."""


class Trial:
    """A few operations of the target side, run on random sequences with random weights.

    Args:
        graph: The model.
        max_length: The longest sequence.
        region: The instructions, in order.
        outputs: The slots that are looked at.
        axes: The time axis of the sequences that go in, by slot.
        seen: Tensors by slot, from a run of the whole model.
        memory: Of that run; tensors with their padding masks, by slot.
        masked: The slots that had a padding mask in that run.
        paddings: The slots that are a padding mask themselves.
    """

    def __init__(
        self,
        graph: Graph,
        max_length: int,
        region: list[Instruction],
        outputs: tuple[int, ...],
        *,
        axes: dict[int, int],
        seen: dict[int, Any],
        memory: dict[int, object],
        masked: set[int],
        paddings: Collection[int] = (),
    ):
        self.graph = graph
        self.max_length = max_length
        self.region = region
        self.outputs = outputs
        self.sequences = {x: axes[x] for x in sorted({x for step in region for x in step.inputs if x in axes})}
        self.memory = {x: memory[x] for step in region for x in step.inputs if x not in graph.dependent}
        self.seen = seen
        self.masked = masked
        self.paddings = paddings
        self.keeps_state = False
        self.kind = 0
        self.variables, self.values = random_weights([step.operation for step in region])
        self.precision = precision([step.operation for step in region])

    # What goes in

    def _draw(self, rows: int, length: int, seed: int) -> list[np.ndarray]:
        """Random sequences, (rows, length) along their axes."""
        random = np.random.default_rng(seed)
        return [self._draw_one(slot, axis, rows, length, random) for slot, axis in self.sequences.items()]

    def _draw_one(self, slot: int, axis: int, rows: int, length: int, random) -> np.ndarray:
        seen = as_array(self.seen[slot])
        dtype, shape = seen.dtype, list(seen.shape)
        shape[0], shape[axis] = rows, length
        if slot == self.graph.target and not self.graph.takes_values:
            return sample_ids(random, self._vocabulary, shape, self.graph.padding_id(slot)).astype(dtype)
        if slot in self.paddings:
            return np.ones(shape, dtype)
        if dtype.kind == "b":
            return random.integers(0, 2, shape).astype(bool)
        if np.issubdtype(dtype, np.integer):
            return random.integers(min(0, seen.min(initial=0)), max(1, seen.max(initial=0)) + 1, shape).astype(dtype)
        if KINDS[self.kind] == "as seen":
            entries = np.moveaxis(seen, axis, 1).reshape(-1, *np.delete(seen.shape, [0, axis]))
            picked = entries[random.integers(0, len(entries), rows * length)]
            return np.moveaxis(picked.reshape(rows, length, *entries.shape[1:]), 1, axis)
        if KINDS[self.kind] == "between 0 and 1":
            return random.uniform(0.02, 0.98, shape).astype(dtype)
        return random.normal(size=shape).astype(dtype)

    def _draw_unusual(self, length: int) -> list[np.ndarray]:
        """Sequences of large numbers, a row each size, and a row in which the same few vectors come again and again."""
        usual = self._draw(len(SIZES) + 1, length, seed=7)
        picked = np.random.default_rng(7).integers(0, min(FEW, length), length)
        for x, axis in zip(usual, self.sequences.values(), strict=True):
            if KINDS[self.kind] == "normal" and np.issubdtype(x.dtype, np.floating):
                for row, size in enumerate(SIZES):
                    x[row] *= size
            x[-1] = np.take(x[-1], picked, axis=axis - 1)
        return usual

    @property
    def _vocabulary(self) -> int:
        limits = self.graph.vocabulary_limits()
        return min(limits.get(self.graph.target, (None, self.graph.vocabulary_size))[1], self.graph.vocabulary_size)

    def _covering(self, length: int, width: int) -> Iterator[list[np.ndarray]]:
        """Sequences in which every id stands somewhere, sequences of few ids that come again and again, of one alone,
        and of all pairs; as many as the cost of running them allows."""
        random = np.random.default_rng(5)
        ids = np.arange(self._vocabulary)
        ids = ids[ids != self.graph.padding_id(self.graph.target)] if len(ids) > 1 else ids
        cost = 2 * sum(int(np.prod(x.shape)) for x in self.variables) + 100
        tokens = int(CALCULATIONS / cost)
        again = np.stack([random.choice(row, length) for row in random.choice(ids, (4, FEW))])
        once = np.concatenate([random.permutation(ids), ids[:64], random.permutation(ids)])[: min(tokens, 2 * len(ids))]
        rows = [again, np.resize(once, (max(1, len(once) // length), length))]
        count = max(
            1, ENTRIES // (length * max(width, self._vocabulary // 4))
        )  # ids may become vectors of one for each
        rows.append(np.repeat(random.permutation(ids)[: tokens // length, None], length, axis=1)[:count])
        number = min(count, tokens // length) // 4 * (length // 2)
        if number:
            pairs = len(ids) ** 2
            pairs = random.permutation(pairs)[:number] if pairs < 4 * number else random.integers(0, pairs, number)
            pairs = np.resize(np.stack([ids[pairs // len(ids)], ids[pairs % len(ids)]], axis=1), (len(pairs) * 2,))
            rows.append(np.resize(pairs, (-(-len(pairs) // (length // 2 * 2)), length // 2 * 2)))
            rows[-1] = np.pad(rows[-1], ((0, 0), (0, length % 2)), mode="edge")
        rows = np.concatenate(rows)
        for start in range(0, len(rows), count):
            part = rows[start : start + count]
            drawn = self._draw(len(part), length, seed=start + 1)
            yield [part.astype(x.dtype) if slot == self.graph.target else x
                   for slot, x in zip(self.sequences, drawn, strict=True)]  # fmt: skip

    # Running

    def _run(self, sequences: list, context: Decoding | None = None) -> list:
        """The outputs for sequences, as tensors; within `context`, if there is one."""
        values = {}
        rows = ops.shape(sequences[0])[0]
        for slot, x in self.memory.items():
            values[slot] = _rows(x, rows)
        for (slot, axis), x in zip(self.sequences.items(), sequences, strict=True):
            values[slot] = x
            if slot in self.masked:
                set_mask(x, ops.ones((rows, ops.shape(x)[axis]), "bool"))
        with without_cudnn(self.graph.model):
            if context is None:
                run(self.region, values)
            else:
                with active(context):
                    run(self.region, values)
        return [values[slot] for slot in self.outputs]

    def _evaluate(self, function, sequences: list[np.ndarray]):
        tensors = [ops.convert_to_tensor(x) for x in sequences]
        return evaluate(lambda *x: function(list(x)), self.variables, *tensors, values=self.values)

    def _whole(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        return [as_array(x) for x in self._evaluate(self._run, sequences)]

    def find_axes(self, *, any_length: bool = True) -> tuple[int | None, ...]:
        """The time axis of each output, None where there is none.

        Args:
            any_length: Whether sequences of other lengths than the longest will be run.
        """
        longest = self.max_length
        lengths = SHORT if longest >= SHORT[1] else (longest - 1, longest)
        try:
            shapes = [self._shapes(length) for length in lengths]
        except failures():
            if any_length:
                raise
            first = next(iter(self.sequences.values()))  # shapes are fixed: by where the length is
            shapes = self._shapes(longest)
            return tuple(first if len(x) > first and x[first] == longest else None for x in shapes)
        return tuple(_changing(shape, other, lengths) for shape, other in zip(*shapes, strict=True))

    def _shapes(self, length: int) -> list[tuple]:
        while True:
            is_last = self.kind == len(KINDS) - 1
            try:
                outputs = self._whole(self._draw(1, length, seed=0))
            except failures():
                if is_last:
                    raise
            else:
                if is_last or all(np.isfinite(x).all() for x in outputs if np.issubdtype(x.dtype, np.floating)):
                    return [x.shape for x in outputs]
            self.kind += 1

    def _width(self) -> int:
        """Entries at one position, of the widest tensor."""
        slots = {*self.sequences, *(slot for step in self.region for slot in step.outputs)}
        length = self.seen[self.graph.target].shape[1] if self.graph.target in self.seen else 1
        return max(-(-int(np.prod(self.seen[slot].shape)) // (BATCH * length)) for slot in slots)

    # Token by token

    def check_steps(self, axes: tuple[int | None, ...]) -> None:
        """Raise `Mixed` unless it gives, token by token, what it gives on whole sequences up to the longest."""
        width = self._width()
        longest = min(self.max_length, max(64, 4 * ENTRIES // width))
        for length in sorted({min(SHORT[1], longest), longest}):
            self._check_steps(self._draw(1, length, seed=length), axes)
        if not self.keeps_state:
            self._check_steps(self._draw_unusual(longest), axes)
        if self.graph.target in self.sequences and not self.graph.takes_values:
            for sequences in self._covering(longest, width):
                self._check_steps(sequences, axes)

    def _check_steps(self, sequences: list[np.ndarray], axes) -> None:
        whole = self._sequences_of(self._whole(sequences), axes)
        if not self.keeps_state:
            try:
                alone = self._sequences_of(self._evaluate(self._each_alone, sequences), axes, like=whole)
                if self._agree(whole, alone):
                    return
            except failures():
                self.keeps_state = True  # perhaps: it cannot be run like this
            if not self.keeps_state:
                raise Mixed("")
        parts = self._evaluate(lambda x: self._successive(x, axes), sequences)
        if not self._agree(whole, self._sequences_of(parts, axes)):
            raise Mixed("")

    def _sequences_of(self, outputs, axes, like=None) -> list[np.ndarray]:
        """The outputs that are sequences, time at place 1; as many rows as those of `like`."""
        found = [np.moveaxis(as_array(x), axis, 1) for x, axis in zip(outputs, axes, strict=True) if axis is not None]
        if like is not None:
            found = [x.reshape(y.shape) if x.size == y.size else x for x, y in zip(found, like, strict=True)]
        return found

    def _each_alone(self, sequences: list) -> list:
        """The outputs (R T, 1, ...) for each position as a sequence of its own."""
        rows, length = sequences[0].shape[0], sequences[0].shape[list(self.sequences.values())[0]]
        single = []
        for x, axis in zip(sequences, self.sequences.values(), strict=True):
            x = ops.moveaxis(x, axis, 1)
            x = ops.reshape(x, (rows * length, 1, *x.shape[2:]))
            single.append(ops.moveaxis(x, 1, axis))
        positions = ops.tile(ops.reshape(ops.arange(length, dtype="int32"), (-1, 1)), (rows, 1))
        context = Decoding({}, {}, positions, self.max_length)
        outputs = self._run(single, context)
        self.keeps_state = bool(context.state)
        return outputs

    def _successive(self, sequences: list, axes) -> list:
        """The outputs token by token: a prompt at once, then two tokens one by one."""
        rows, length = sequences[0].shape[0], sequences[0].shape[list(self.sequences.values())[0]]
        starts = sorted({0, max(0, length - 2), length - 1})
        state, memory, parts = {}, {}, []
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            columns = ops.arange(start, end, dtype="int32")
            here = [ops.take(x, columns, axis=axis) for x, axis in zip(sequences, self.sequences.values(), strict=True)]
            positions = ops.tile(ops.expand_dims(columns, 0), (rows, 1))
            ends = ops.full((rows,), end, dtype="int32")
            context = Decoding(state, memory, positions, self.max_length, lengths=ends)
            parts.append(self._run(here, context))
            state, memory = context.state, context.memory
        joined = zip(*parts, axes, strict=True)
        return [ops.concatenate(x, axis=axis) if axis is not None else x[0] for *x, axis in joined]

    def _agree(self, some: list[np.ndarray], others: list[np.ndarray]) -> bool:
        return all(agree(x, y, self.precision) for x, y in zip(some, others, strict=True))

    # Causality

    def check_causal(self, axes: tuple[int | None, ...]) -> None:
        """Raise `Mixed` if an output depends on what comes after it, in sequences of the greatest length, or on how
        long they are."""
        length, width = self.max_length, self._width()
        random = np.random.default_rng(3)
        cuts = range(1, length)
        if length > 32:
            cuts = {1, 2, length // 3, length // 2, length - 2, length - 1, *random.integers(1, length, 3).tolist()}
        cuts = sorted(cuts)
        count = max(1, ENTRIES // (length * width))
        one, other = self._draw(1, length, seed=1), self._draw(1, length, seed=2)
        for start in range(0, len(cuts), count):
            ends = np.array([length, *cuts[start : start + count]])
            self._check_cuts([_cut(x, y, axis, ends) for x, y, axis in
                              zip(one, other, self.sequences.values(), strict=True)], ends, axes)  # fmt: skip
        self._check_shorter(one, cuts, axes)
        if self.graph.target in self.sequences:
            for sequences in self._covering(length, width):
                same = [_cut(x[:1], x, axis, np.ones(len(x), int)) for x, axis in
                        zip(sequences, self.sequences.values(), strict=True)]  # fmt: skip
                self._check_cuts(same, np.ones(len(same[0]), int), axes)

    def _check_shorter(self, sequences: list[np.ndarray], cuts: list[int], axes) -> None:
        """Sequences that end sooner must give the outputs that they give when others follow."""
        whole = self._sequences_of(self._whole(sequences), axes)
        for end in sorted({cuts[0], cuts[len(cuts) // 2], cuts[-1]}):
            try:
                shorter = self._whole([np.take(x, range(end), axis=axis) for x, axis in
                                       zip(sequences, self.sequences.values(), strict=True)])  # fmt: skip
            except failures():  # it takes one length only
                return
            shorter = self._sequences_of(shorter, axes)
            if any(x.shape[1] != end for x in shorter):
                return
            if not self._agree([x[:, :end] for x in whole], shorter):
                raise Mixed("")

    def _check_cuts(self, sequences: list[np.ndarray], ends: np.ndarray, axes) -> None:
        """Rows that are equal to the first one up to their ends must give equal outputs up to there."""
        for output in self._sequences_of(self._whole(sequences), axes):
            for row, end in zip(output, ends, strict=True):
                if not agree(output[:1, :end], row[None, :end], self.precision):
                    raise Mixed("")


def _rows(x, rows: int):
    """A tensor of the memory, its first row as many times as there are rows."""
    if ops.ndim(x) == 0 or x.shape[0] != BATCH:
        return x
    mask = get_mask(x)
    x = ops.repeat(x[:1], rows, axis=0)
    if mask is not None:
        set_mask(x, ops.repeat(mask[:1], rows, axis=0))
    return x


def _changing(shape: tuple, other: tuple, lengths: tuple[int, int]) -> int | None:
    """The one axis along which two shapes have the two lengths, if they differ in nothing else."""
    if len(shape) != len(other):
        return None
    differing = [axis for axis, sizes in enumerate(zip(shape, other, strict=True)) if sizes[0] != sizes[1]]
    if len(differing) != 1 or (shape[differing[0]], other[differing[0]]) != tuple(lengths) or differing[0] == 0:
        return None
    return differing[0]


def _cut(x: np.ndarray, y: np.ndarray, axis: int, ends: np.ndarray) -> np.ndarray:
    """Rows that are `x` up to their ends and `y` from there on."""
    before = np.arange(x.shape[axis]) < ends[:, None]
    shape = [1] * x.ndim
    shape[0], shape[axis] = before.shape
    return np.where(before.reshape(shape), x, y)
