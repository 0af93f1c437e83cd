"""Rows that each have a matrix of their own, one of a few: brought together by matrix, multiplied, brought back.

Of N tokens each chooses k of E experts: k N pairs. A pair's row lies in a slot, and the slots of an expert lie side by
side, so each expert has one product to compute and the cost is that of k N rows, however many experts there are. No
token is left out, and none depends on another. ("MegaBlocks", https://arxiv.org/abs/2211.15841.)
"""

import math

import keras
from keras import ops

from keras_transformer.ops.blocks import empty_blocks, read_block, stack_blocks, with_gradient, write_block
from keras_transformer.ops.runtime import is_compiled_by_xla, is_for_converter

# Rows of a block. With fewer, reading the matrix costs more than the product; with more, too many of them are empty.
LEAST, MOST = 32, 256


def dispatch(chosen, num_experts: int, *, real=None, capacity_factor: float | None = None) -> "Slots":
    """Give each pair of a token and an expert that it chose a slot.

    Args:
        chosen: (N, k), int32. The experts of each token.
        num_experts: E.
        real: (N,), bool. Tokens that are not real get no slot.
        capacity_factor: Each expert has ceil(capacity_factor k N / E) slots. First choices go before second ones, and
            earlier tokens before later ones; pairs that find no slot are left out. None: all get one.

    Example:

    >>> import numpy as np
    >>> slots = dispatch(np.array([[1], [0], [1]], "int32"), 2)
    >>> tokens, kernels = np.array([[1.0], [2.0], [3.0]], "float32"), np.array([[[10.0]], [[100.0]]], "float32")
    >>> products = slots.product(slots.spread(tokens), kernels)
    >>> np.asarray(slots.collect(products, np.ones((3, 1), "float32"))).ravel().tolist()
    [100.0, 20.0, 300.0]
    """
    real = None if real is None else ops.convert_to_tensor(real, "bool")
    pairs = _Pairs(ops.convert_to_tensor(chosen, "int32"), num_experts, real)
    if capacity_factor is not None:
        wanted = capacity_factor / num_experts
        if isinstance(pairs.count, int):
            capacity = max(math.ceil(wanted * pairs.count), 1)
        else:
            capacity = ops.maximum(ops.cast(ops.ceil(wanted * ops.cast(pairs.count, "float32")), "int32"), 1)
        return _Blocks(pairs, capacity)
    way = _way()
    return _Sorted(pairs, way) if way in ("split", "ragged") else _Blocks(pairs, way=way)


def _way() -> str:
    """How rows are multiplied: in parts of sizes that only their values tell or, where shapes are fixed, in blocks.

    A loop multiplies only the blocks that hold something, and copies no matrices. Where a loop is slow, or none can be,
    all blocks are multiplied at once, each with a copy of its matrix. (JAX's own product, `ragged_dot`, is of that kind
    on a TPU only; elsewhere it multiplies each row with all matrices. JAX 0.10.2.)
    """
    if keras.backend.backend() == "jax":
        import jax

        return {"tpu": "ragged", "gpu": "at once"}.get(jax.default_backend(), "loop")
    if keras.backend.backend() == "tensorflow":
        return "at once" if is_for_converter() else "loop" if is_compiled_by_xla() else "split"
    return "split"


class _Pairs:
    """The pairs of N tokens and k experts, all first choices before all second ones, and their order by expert."""

    def __init__(self, chosen, num_experts: int, real):
        self.choices, self.num_experts = chosen.shape[1], num_experts
        self.tokens = ops.shape(chosen)[0]
        self.count = self.tokens * self.choices
        experts = ops.reshape(ops.transpose(chosen), (-1,))
        self.real = None if real is None else ops.tile(real, (self.choices,))
        if real is not None:
            experts = ops.where(self.real, experts, num_experts)  # behind all others
        self.experts = experts
        of_each = ops.expand_dims(experts, 1) == ops.expand_dims(ops.arange(num_experts, dtype="int32"), 0)
        self.sizes = ops.sum(ops.cast(of_each, "int32"), axis=0)  # (E,)
        self.starts = ops.cumsum(self.sizes) - self.sizes
        self.order = ops.cast(ops.argsort(experts, axis=0), "int32")  # the pair at each place
        numbers = ops.arange(self.count, dtype="int32")
        self.places = ops.scatter(ops.expand_dims(self.order, 1), numbers, (self.count,))  # the place of each pair


class Slots:
    """Where the row of each pair lies.

    Args:
        pairs: The pairs.
        pair_of_slot: (slots,), int32. filled: (slots,), bool, which slots have a pair; None: all have.
        slot_of_pair: (k N,), int32. placed: (k N,), bool, which pairs have a slot; None: all have.
    """

    def __init__(self, pairs: _Pairs, pair_of_slot, filled, slot_of_pair, placed):
        self.choices, self.tokens, self.sizes = pairs.choices, pairs.tokens, pairs.sizes
        self.to_slots, self.to_pairs = (pair_of_slot, filled), (slot_of_pair, placed)

    def spread(self, tokens):
        """The rows (slots, D) of tokens (N, D)."""
        return _moved(ops.tile(tokens, (self.choices, 1)), self.to_slots, self.to_pairs)

    def collect(self, rows, weights):
        """The sum of each token's rows, weighted: (slots, D) and (N, k) to (N, D)."""
        of_pairs = _moved(rows, self.to_pairs, self.to_slots) * ops.reshape(ops.transpose(weights), (-1, 1))
        return ops.sum(ops.reshape(of_pairs, (self.choices, self.tokens, rows.shape[1])), axis=0)

    def product(self, rows, kernels, biases=None):
        """x W_e + b_e for the rows (slots, D) of each expert; kernels (E, D, F), biases (E, F): (slots, F)."""
        raise NotImplementedError


def _moved(rows, there: tuple, back: tuple):
    """Rows brought elsewhere; zeros where none comes to. The gradient gathers, too, where Keras' would scatter."""
    names = ("index", "kept", "index back", "kept back")
    given = {name: x for name, x in zip(names, (*there, *back), strict=True) if x is not None}

    def gather(rows, index, kept):
        rows = ops.take(rows, index, axis=0)
        return rows if kept is None else ops.where(ops.expand_dims(kept, 1), rows, ops.zeros_like(rows))

    def forward(rows, *tensors):
        known = dict(zip(given, tensors, strict=True))
        return gather(rows, known["index"], known.get("kept")), known

    def backward(known, upstream):
        return [gather(upstream, known["index back"], known.get("kept back")), *[None] * len(given)]

    return with_gradient(forward, backward)(rows, *given.values())


class _Sorted(Slots):
    """A slot for each pair, in the order of their experts."""

    def __init__(self, pairs: _Pairs, way: str):
        filled = None if pairs.real is None else ops.take(pairs.real, pairs.order, axis=0)
        super().__init__(pairs, pairs.order, filled, pairs.places, pairs.real)
        self.way, self.all_real = way, pairs.real is None

    def product(self, rows, kernels, biases=None):
        if self.way == "ragged":
            import jax

            products = jax.lax.ragged_dot(rows, kernels, self.sizes)
            if biases is None:
                return products
            expert = ops.searchsorted(ops.cumsum(self.sizes), ops.arange(rows.shape[0]), side="right")
            return products + ops.take(biases, ops.minimum(expert, kernels.shape[0] - 1), axis=0)
        *parts, rest = self._split(rows)
        products = [ops.matmul(part, kernel) for part, kernel in zip(parts, ops.unstack(kernels), strict=True)]
        if biases is not None:
            products = [product + bias for product, bias in zip(products, ops.unstack(biases), strict=True)]
        if not self.all_real:
            products.append(ops.zeros((ops.shape(rest)[0], kernels.shape[2]), rest.dtype))
        return ops.concatenate(products, axis=0)

    def _split(self, rows):
        """The rows of each expert, and those of no expert."""
        sizes, of_none = self.sizes, ops.shape(rows)[0] - ops.sum(self.sizes)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.split(rows, tf.concat([sizes, [of_none]], axis=0), num=sizes.shape[0] + 1)
        return rows.split([*sizes.tolist(), int(of_none)])


class _Blocks(Slots):
    """Blocks of b slots, each of one expert.

    Args:
        pairs: The pairs.
        capacity: If there is one, each expert has one block, of that size; else each has as many as it wants, and
            their number is the largest that there can be.
        way: "loop" or "at once".
    """

    def __init__(self, pairs: _Pairs, capacity=None, way: str = "at once"):
        self.num_experts, self.way = pairs.num_experts, way
        self.expert_of_block = None
        if capacity is not None:
            self.size, self.count = capacity, self.num_experts
            firsts = ops.arange(self.num_experts, dtype="int32")
            experts = firsts
        else:
            self.size, self.count = self._best_size(pairs.count)
            blocks = (pairs.sizes + (self.size - 1)) // self.size
            ends = ops.cumsum(blocks)
            firsts, self.used = ends - blocks, ends[-1]  # the first block of each expert
            later = ops.expand_dims(ops.arange(self.count, dtype="int32"), 1) >= ops.expand_dims(ends, 0)
            experts = ops.minimum(ops.sum(ops.cast(later, "int32"), axis=1), self.num_experts - 1)
            self.expert_of_block = experts

        places = ops.arange(self.size, dtype="int32")
        number = ops.expand_dims(ops.arange(self.count, dtype="int32"), 1) - self._column(firsts, experts)
        within = number * self.size + ops.expand_dims(places, 0)  # (blocks, b), of slots, within their expert
        filled = ops.reshape(within < self._column(pairs.sizes, experts), (-1,))
        place = ops.minimum(self._column(pairs.starts, experts) + within, pairs.count - 1)  # among all that are sorted
        pair_of_slot = ops.take(pairs.order, ops.reshape(place, (-1,)), axis=0)

        expert = ops.minimum(pairs.experts, self.num_experts - 1)
        within = pairs.places - ops.take(pairs.starts, expert, axis=0)
        slot_of_pair = ops.take(firsts, expert, axis=0) * self.size + within
        placed = pairs.real
        if capacity is not None:
            found = within < self.size
            placed = found if placed is None else ops.logical_and(placed, found)
        if placed is not None:
            slot_of_pair = ops.where(placed, slot_of_pair, 0)
        super().__init__(pairs, pair_of_slot, filled, slot_of_pair, placed)

    @staticmethod
    def _column(of_experts, experts):
        """What belongs to the expert of each block, (blocks, 1)."""
        return ops.expand_dims(ops.take(of_experts, experts, axis=0), 1)

    def _best_size(self, rows):
        """How many rows a block has, and how many blocks there can be: of R rows E experts fill at most
        (R - E) // b + E blocks of b rows, where each has a row."""
        share = -(-rows // (4 * self.num_experts))  # so at most a fourth of the slots stays empty
        if isinstance(rows, int):
            size, busy = max(min(rows, max(LEAST, min(MOST, share))), 1), min(rows, self.num_experts)
        else:
            size = ops.maximum(ops.minimum(rows, ops.clip(share, LEAST, MOST)), 1)
            busy = ops.minimum(rows, self.num_experts)
        return size, (rows - busy) // size + busy

    def product(self, rows, kernels, biases=None):
        blocks = ops.reshape(rows, (self.count, self.size, rows.shape[1]))
        if self.expert_of_block is None:
            products = ops.matmul(blocks, kernels)
            products = products if biases is None else products + ops.expand_dims(biases, 1)
        else:
            forward, backward = (_one_by_one, _back_one_by_one) if self.way == "loop" else (_at_once, _back_at_once)
            others = [] if biases is None else [biases]
            products = with_gradient(forward, backward)(blocks, kernels, self.expert_of_block, self.used, *others)
        return ops.reshape(products, (self.count * self.size, kernels.shape[2]))


def _at_once(blocks, kernels, experts, used, biases=None):
    products = ops.matmul(blocks, ops.take(kernels, experts, axis=0))
    if biases is not None:
        products = products + ops.expand_dims(ops.take(biases, experts, axis=0), 1)
    return products, (blocks, kernels, experts, biases)


def _back_at_once(known, upstream):
    blocks, kernels, experts, biases = known
    to_blocks = ops.matmul(upstream, ops.take(ops.swapaxes(kernels, 1, 2), experts, axis=0))
    to_matrices = ops.matmul(ops.swapaxes(blocks, 1, 2), upstream)
    parts = [to_matrices] if biases is None else [to_matrices, ops.sum(upstream, axis=1)]
    to_kernels, *others = [ops.segment_sum(x, experts, kernels.shape[0]) for x in parts]
    return [to_blocks, to_kernels, None, None, *others]


def _one_by_one(blocks, kernels, experts, used, biases=None):
    def step(i, products):
        product = ops.matmul(blocks[i], kernels[experts[i]])
        if biases is not None:
            product = product + biases[experts[i]]
        return i + 1, write_block(products, i, product)

    shape = (ops.shape(blocks)[1], kernels.shape[2])
    empty = empty_blocks(ops.shape(blocks)[0], shape, keras.backend.standardize_dtype(blocks.dtype))
    _, products = ops.while_loop(lambda i, *_: i < used, step, (_number(0), empty))
    return stack_blocks(products), (blocks, kernels, experts, used, biases)


def _back_one_by_one(known, upstream):
    blocks, kernels, experts, used, biases = known
    others = [] if biases is None else [biases]

    def step(i, to_blocks, to_kernels, *to_biases):
        x, g, e = blocks[i], upstream[i], experts[i]
        to_blocks = write_block(to_blocks, i, ops.matmul(g, ops.transpose(kernels[e])))
        to_kernels = _add(to_kernels, e, ops.matmul(ops.transpose(x), g))
        to_biases = [_add(to_biases[0], e, ops.sum(g, axis=0))] if to_biases else []
        return i + 1, to_blocks, to_kernels, *to_biases

    dtype = keras.backend.standardize_dtype(blocks.dtype)
    empty = [empty_blocks(ops.shape(blocks)[0], ops.shape(blocks)[1:], dtype)]
    empty += [empty_blocks(x.shape[0], x.shape[1:], "float32") for x in (kernels, *others)]
    _, to_blocks, *sums = ops.while_loop(lambda i, *_: i < used, step, (_number(0), *empty))
    sums = [ops.cast(stack_blocks(x), dtype) for x in sums]
    return [stack_blocks(to_blocks), sums[0], None, None, *sums[1:]]


def _add(blocks, index, block):
    return write_block(blocks, index, read_block(blocks, index) + ops.cast(block, "float32"))


def _number(x):
    return ops.convert_to_tensor(x, "int32")
