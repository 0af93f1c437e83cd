"""Attention block by block: the scores of all pairs are never held.

("FlashAttention", https://arxiv.org/abs/2205.14135; "Online normalizer calculation for softmax",
https://arxiv.org/abs/1805.02867.) Forward, for each block of queries, over the blocks of keys that it may see, with s
the scores of a block:

    m' = max(m, max s), p = exp(s - m'), l' = l exp(m - m') + sum p, o' = o exp(m - m') + p V

and at the end O = o / l. Kept for the gradient are O and the normalizer z = m + log l, a number a query. Backward, for
each block of keys, over the blocks of queries that may see it, with P = exp(s - z), D = sum(dO O):

    dV += P^T dO, dS = P (dO V^T - D), dQ += dS K, dK += dS^T Q
"""

from keras import ops

from keras_transformer.ops.blocks import empty_blocks, loop, read_block, stack_blocks, with_gradient, write_block
from keras_transformer.ops.exact import FORBIDDEN
from keras_transformer.ops.random import column_codes, combine, kept, row_codes, seed_pair
from keras_transformer.ops.tiling import Tiling
from keras_transformer.ops.visibility import Visibility

BLOCK = 256  # scores of one that stay in the processor's cache (benchmarks/attention.py)


def blockwise_attention(
    query,
    key,
    value,
    seen: Visibility,
    *,
    bias=None,
    distance_bias=None,
    sinks=None,
    scale: float | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    seed=None,
    block: int | None = None,
):
    """softmax(Q K^T scale + bias) V on heads-first tensors, in memory that grows with the lengths, not their product.

    Args:
        query: (B, H, T, K), float.
        key, value: (B, G, S, K), float, G a divisor of H.
        seen: What may be attended to. Blocks that causality, the window or padding leave empty are not computed.
        bias: (B or 1, H or 1, T or 1, S or 1), float, added to the scaled scores.
        distance_bias: (H, T + S - 1), float. The bias of each distance s - t, from 1 - T to S - 1.
        sinks: (H,), float. A score of each head that takes part in the softmax and has no value.
        scale, soft_cap, dropout, seed: As of `kt.ops.dot_product_attention`; the same seed drops the same weights.
        block: How many queries and keys are looked at together. Default: `BLOCK`.

    Returns:
        (B, H, T, K), of the dtype of `value`.
    """
    block = BLOCK if block is None else block
    dtype = value.dtype
    scale = query.shape[3] ** -0.5 if scale is None else scale
    floats = {"query": query, "key": key, "value": value, "bias": bias, "distance_bias": distance_bias, "sinks": sinks}
    floats = {name: ops.cast(x, "float32") for name, x in floats.items() if x is not None}
    others = {name: getattr(seen, name) for name in ("key_mask", "query_segments", "key_segments", "mask")}
    if dropout:
        others["seed"] = ops.stack(seed_pair(seed))
    others = {name: x for name, x in others.items() if x is not None}

    def attention(tensors):
        given = dict(zip((*floats, *others), tensors, strict=True))
        return _Attention(given, seen.causal, seen.window, scale, soft_cap, dropout, block)

    def forward(*tensors):
        output, normalizer = attention(tensors).forward()
        return output, (tensors, output, normalizer)

    def backward(known, upstream):
        tensors, output, normalizer = known
        gradients = attention(tensors).backward(output, normalizer, upstream)
        return [gradients.get(name) for name in (*floats, *others)]

    return ops.cast(with_gradient(forward, backward)(*floats.values(), *others.values()), dtype)


class _Attention(Tiling):
    """The two loops over the same blocks. n blocks of b queries, m blocks of b keys, R = H / G query heads a key head.

    A block of queries is (B, G, R b, K): the queries of all heads that share a key head stand under each other.
    """

    def __init__(self, given: dict, causal: bool, window: int | None, scale, soft_cap, rate: float, block: int):
        query, key = given["query"], given["key"]
        self.causal, self.window, self.scale, self.soft_cap, self.rate = causal, window, scale, soft_cap, rate
        super().__init__(query, key, block)
        block = self.block
        self.query = self._query_blocks(query * scale)
        self.key, self.value = self._key_blocks(key), self._key_blocks(given["value"])
        self.bias, self.sinks = given.get("bias"), given.get("sinks")
        self.distances = None
        if (
            "distance_bias" in given
        ):  # the blocks (i, j) on one diagonal share a bias, which two blocks of distances hold
            padded = self._pad(given["distance_bias"], 1, self.rows * block - self.length, before=True)
            padded = self._pad(padded, 1, self.columns * block - self.keys + 1)
            blocks = ops.reshape(padded, (self.heads, self.rows + self.columns, block))
            self.distances = ops.transpose(blocks, (1, 0, 2))  # (n + m, H, b)
        self._prepare_masks(given)

    def _prepare_masks(self, given: dict) -> None:
        key_mask = given.get("key_mask")
        self.used = self.columns  # the blocks of keys behind which all is padding
        if key_mask is not None:
            ends = ops.where(key_mask, ops.arange(1, self.keys + 1, dtype="int32"), 0)
            self.used = ops.minimum(-(-ops.max(ends) // self.block), self.columns)
        elif not isinstance(self.keys, int) or self.keys % self.block:
            key_mask = ops.ones((1, self.keys), "bool")
        self.real = None if key_mask is None else self._token_blocks(key_mask, self.columns, self.keys)
        self.all_real = None if key_mask is None else ops.all(self.real, axis=(1, 2))
        self.query_segments = self.key_segments = None
        if "query_segments" in given:
            self.query_segments = self._token_blocks(given["query_segments"], self.rows, self.length)
            self.key_segments = self._token_blocks(given["key_segments"], self.columns, self.keys)
        mask = given.get("mask")
        while mask is not None and len(mask.shape) < 4:
            mask = ops.expand_dims(mask, 0 if len(mask.shape) == 2 else 1)
        self.mask = None if mask is None else self._pad_pairs(mask)
        self.padded_bias = None if self.bias is None else self._pad_pairs(self.bias)
        if "seed" in given:
            rows = row_codes(given["seed"][0], self.batch * self.heads * self.length)
            self.row_codes = self._query_blocks(ops.reshape(rows, (self.batch, self.heads, self.length, 1)))
            columns = self._pad(column_codes(given["seed"][1], self.keys), 0, self.columns * self.block - self.keys)
            self.column_codes = ops.reshape(columns, (self.columns, self.block))

    # Forward

    def forward(self):
        """The output (B, H, T, K), and of each query the normalizer, (B, H, T, 1)."""
        first = self.query[0]
        outputs = empty_blocks(self.rows, (*ops.shape(first)[:3], self.value.shape[-1]), "float32")
        normalizers = empty_blocks(self.rows, (*ops.shape(first)[:3], 1), "float32")
        outputs, normalizers = loop(0, self.rows, self._row, (outputs, normalizers))
        return (self._joined(stack_blocks(x), self.length) for x in (outputs, normalizers))

    def _row(self, i, outputs, normalizers):
        query = self.query[i]
        zero = ops.zeros_like(query[..., :1])
        total, largest = zero, zero + FORBIDDEN
        if self.sinks is not None:
            total, largest = zero + 1.0, zero + self._of_heads(self.sinks)
        begin, end = self._seen_by(i)

        def step(j, largest, total, output):
            scores, _ = self._scores(i, j, query)
            new = ops.maximum(largest, ops.max(scores, axis=-1, keepdims=True))
            weights, kept_share = ops.exp(scores - new), ops.exp(largest - new)
            total = total * kept_share + ops.sum(weights, axis=-1, keepdims=True)
            if self.rate:
                weights = weights * self._dropped(i, j)
            return new, total, output * kept_share + ops.matmul(weights, self.value[j])

        start = zero * self.value[0][:, :, :1, :]
        largest, total, output = loop(begin, end, step, (largest, total, start), side_by_side=2)
        nothing = largest < 0.5 * FORBIDDEN
        output = ops.where(nothing, 0.0, output / ops.where(nothing, 1.0, total))
        normalizer = ops.where(nothing, -FORBIDDEN, largest + ops.log(ops.where(nothing, 1.0, total)))
        return write_block(outputs, i, output), write_block(normalizers, i, normalizer)

    # Backward

    def backward(self, output, normalizers, upstream) -> dict:
        """The gradients of the loss for every float tensor that was given."""
        upstream = ops.cast(upstream, "float32")
        along = ops.sum(upstream * output, axis=-1, keepdims=True)  # D
        self.normalizers, self.along, self.upstream = map(self._query_blocks, (normalizers, along, upstream))
        one = self.query[0], self.key[0], self.value[0]
        queries, keys, values = (
            empty_blocks(count, ops.shape(block), "float32")
            for count, block in zip((self.rows, self.columns, self.columns), one, strict=True)
        )
        queries, keys, values, *biases = loop(
            0, self.used, self._column, (queries, keys, values, *self._empty_biases())
        )
        queries, keys, values = (stack_blocks(x) for x in (queries, keys, values))
        gradients = {
            "query": self._joined(queries, self.length) * self.scale,
            "key": self._joined(keys, self.keys),
            "value": self._joined(values, self.keys),
        }
        if self.sinks is not None:
            share = ops.exp(ops.reshape(self.sinks, (1, -1, 1, 1)) - normalizers) * along
            gradients["sinks"] = -ops.sum(share, axis=(0, 2, 3))
        return {**gradients, **self._bias_gradients(biases)}

    def _column(self, j, queries, keys, values, *biases):
        key, value = self.key[j], self.value[j]
        begin, end = self._that_see(j)

        def step(i, to_key, to_value, queries, *biases):
            query, upstream = self.query[i], self.upstream[i]
            scores, slope = self._scores(i, j, query)
            weights = ops.exp(scores - self.normalizers[i])  # P
            to_weights = ops.matmul(upstream, ops.swapaxes(value, 2, 3))
            used = weights
            if self.rate:
                dropped = self._dropped(i, j)
                used, to_weights = weights * dropped, to_weights * dropped
            to_value = to_value + ops.matmul(ops.swapaxes(used, 2, 3), upstream)
            to_scores = weights * (to_weights - self.along[i])  # dS
            biases = self._add_to_biases(biases, i, j, to_scores)
            if slope is not None:
                to_scores = to_scores * slope
            to_key = to_key + ops.matmul(ops.swapaxes(to_scores, 2, 3), query)
            to_query = read_block(queries, i) + ops.matmul(to_scores, key)
            return to_key, to_value, write_block(queries, i, to_query), *biases

        zeros = ops.zeros_like(key), ops.zeros_like(value)
        to_key, to_value, queries, *biases = loop(begin, end, step, (*zeros, queries, *biases), side_by_side=2)
        return queries, write_block(keys, j, to_key), write_block(values, j, to_value), *biases

    # Blocks of scores

    def _seen_by(self, i):
        """The blocks of keys that a block of queries sees: the first, and one after the last."""
        begin, end = _number(0), _number(self.used)
        if self.causal:
            end = ops.minimum(end, i + 1)
        if self.window is not None:
            begin = ops.maximum(i * self.block - self.window + 1, 0) // self.block
            if not self.causal:
                end = ops.minimum(end, ((i + 1) * self.block + self.window - 2) // self.block + 1)
        return begin, end

    def _that_see(self, j):
        """The blocks of queries that see a block of keys: the first, and one after the last."""
        begin, end = _number(0), _number(self.rows)
        if self.window is not None:
            end = ops.minimum(end, ((j + 1) * self.block + self.window - 2) // self.block + 1)
            begin = ops.maximum(j * self.block - self.window + 1, 0) // self.block
        return (j + 0 if self.causal else begin), end

    def _scores(self, i, j, query):
        """The scores of a block, (B, G, R b, b), and the derivative of the soft cap there, or None."""
        scores = ops.matmul(query, ops.swapaxes(self.key[j], 2, 3))
        slope = None
        if self.soft_cap is not None:
            bounded = ops.tanh(scores / self.soft_cap)
            scores, slope = self.soft_cap * bounded, 1.0 - bounded * bounded
        whole = self._whole(i, j)
        if whole is None:
            return self._with_added(scores, i, j), slope
        return ops.cond(whole, lambda: scores, lambda: self._with_added(scores, i, j)), slope

    def _whole(self, i, j):
        """Whether a block is all visible and has no bias, so that nothing is added; None if that cannot be told."""
        if any(x is not None for x in (self.query_segments, self.mask, self.bias, self.distances)):
            return None
        whole = ops.convert_to_tensor(True)
        if self.causal:
            whole = ops.logical_and(whole, i > j)
        if self.window is not None:
            whole = ops.logical_and(whole, (ops.abs(i - j) + 1) * self.block <= self.window)
        if self.real is not None:
            whole = ops.logical_and(whole, self.all_real[j])
        return whole

    def _with_added(self, scores, i, j):
        """The scores of a block with masks and biases added."""
        blocks = ops.reshape(scores, (self.batch, self.groups, self.shared, self.block, self.block))
        for part in self._added(i, j):
            blocks = blocks + part
        return ops.reshape(blocks, ops.shape(scores))

    def _added(self, i, j):
        """What is added to a block of scores, each (B or 1, G or 1, R or 1, b or 1, b or 1)."""
        parts, allowed = [], []
        steps = ops.arange(self.block, dtype="int32")
        if self.causal or self.window is not None:
            distance = (i - j) * self.block + ops.expand_dims(steps, 1) - ops.expand_dims(steps, 0)
            if self.causal:
                allowed.append(distance >= 0)
            if self.window is not None:
                allowed.append(ops.abs(distance) < self.window)
        if self.real is not None:
            allowed.append(self._over_pairs(ops.expand_dims(self.real[j], 1)))
        if self.query_segments is not None:
            same = ops.expand_dims(self.query_segments[i], 2) == ops.expand_dims(self.key_segments[j], 1)
            allowed.append(self._over_pairs(same))
        if self.mask is not None:
            allowed.append(self._split_heads(self._pair_block(self.mask, i, j)))
        if self.padded_bias is not None:
            parts.append(self._split_heads(self._pair_block(self.padded_bias, i, j)))
        if self.distances is not None:
            parts.append(self._split_heads(ops.expand_dims(self._toeplitz(i, j), 0)))
        if allowed:
            together = allowed[0]
            for one in allowed[1:]:
                together = ops.logical_and(together, one)
            parts.append(ops.where(together, 0.0, FORBIDDEN))
        return parts

    def _dropped(self, i, j):
        """The factor of each weight of a block: 0, or 1 / (1 - rate)."""
        keep = kept(combine(self.row_codes[i], self.column_codes[j]), self.rate)
        return ops.cast(keep, "float32") * (1 / (1 - self.rate))

    def _toeplitz(self, i, j):
        """The bias by distance of a block, (H, b, b).

        Element (a, c) is w[b - 1 - a + c] of the 2 b - 1 distances w that the block has. Written after each other again
        and again and cut into lines that are shorter by one, w moves by one from line to line.
        """
        b, first = self.block, j - i - 1 + self.rows
        w = ops.concatenate([self.distances[first], self.distances[first + 1][:, : b - 1]], axis=1)  # (H, 2 b - 1)
        lines = ops.tile(w, (1, b + 1))[:, b - 1 : b - 1 + b * (2 * b - 2)]
        return ops.reshape(lines, (self.heads, b, 2 * b - 2))[:, :, :b]

    # The gradients of biases

    def _empty_biases(self) -> list:
        biases = []
        if self.distances is not None:
            biases.append(empty_blocks(self.rows + self.columns, (self.heads, self.block), "float32"))
        if self.bias is not None:
            batch, heads, rows, columns = ops.shape(self.bias)
            self.bias_columns = self.columns if columns != 1 else 1
            count = (self.rows if rows != 1 else 1) * self.bias_columns
            shape = (batch, heads, self.block if rows != 1 else 1, self.block if columns != 1 else 1)
            biases.append(empty_blocks(count, shape, "float32"))
        return biases

    def _add_to_biases(self, biases, i, j, to_scores):
        biases = list(biases)
        if not biases:
            return biases
        to_scores = ops.reshape(to_scores, (self.batch, self.heads, self.block, self.block))
        if self.distances is not None:
            b, first = self.block, j - i - 1 + self.rows
            lines = self._pad(ops.sum(to_scores, axis=0), 2, b - 2)  # the way of `_toeplitz` back
            flat = ops.reshape(lines, (self.heads, b * (2 * b - 2)))
            flat = self._pad(self._pad(flat, 1, b - 1, before=True), 1, (b + 1) * (2 * b - 1) - b * (2 * b - 2) - b + 1)
            w = self._pad(ops.sum(ops.reshape(flat, (self.heads, b + 1, 2 * b - 1)), axis=1), 1, 1)
            blocks = biases[0]
            blocks = write_block(blocks, first, read_block(blocks, first) + w[:, :b])
            biases[0] = write_block(blocks, first + 1, read_block(blocks, first + 1) + w[:, b:])
        if self.bias is not None:
            shape = self.bias.shape
            axes = [axis for axis in range(4) if shape[axis] == 1]
            number = (i if shape[2] != 1 else 0) * self.bias_columns + (j if shape[3] != 1 else 0)
            part = ops.sum(to_scores, axis=axes, keepdims=True) if axes else to_scores
            biases[-1] = write_block(biases[-1], number, read_block(biases[-1], number) + part)
        return biases

    def _bias_gradients(self, biases) -> dict:
        gradients = {}
        if self.distances is not None:
            flat = ops.transpose(stack_blocks(biases[0]), (1, 0, 2))
            flat = ops.reshape(flat, (self.heads, (self.rows + self.columns) * self.block))
            begin = self.rows * self.block - self.length
            gradients["distance_bias"] = flat[:, begin : begin + self.length + self.keys - 1]
        if self.bias is not None:
            blocks = stack_blocks(biases[-1])  # (n m, B, H, b, b)
            batch, heads, rows, columns = ops.shape(self.bias)
            high, wide = (self.rows if rows != 1 else 1), self.bias_columns
            shape = (high, wide, *ops.shape(blocks)[1:])
            blocks = ops.transpose(ops.reshape(blocks, shape), (2, 3, 0, 4, 1, 5))
            blocks = ops.reshape(blocks, (batch, heads, high * shape[4], wide * shape[5]))
            gradients["bias"] = blocks[:, :, :rows, :columns]
        return gradients


def _number(x):
    return ops.convert_to_tensor(x, "int32")
