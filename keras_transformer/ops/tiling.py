"""Tensors of attention as blocks of queries and of keys, and back."""

from keras import ops


class Tiling:
    """n blocks of b queries, m blocks of b keys, R = H / G query heads a key head.

    Args:
        query: (B, H, T, K).
        key: (B, G, S, K).
        block: b, at most.
    """

    def __init__(self, query, key, block: int):
        self.batch, self.heads, self.length, _ = ops.shape(query)
        self.groups, self.keys = key.shape[1], ops.shape(key)[2]
        self.shared = self.heads // self.groups  # R
        if isinstance(self.length, int) and isinstance(self.keys, int):
            block = min(block, max(self.length, self.keys, 2))
        self.block = block
        self.rows, self.columns = -(-self.length // block), -(-self.keys // block)  # n, m

    def _query_blocks(self, x):
        """(B, H, T, K) as (n, B, G, R b, K)."""
        width = x.shape[-1]
        x = self._pad(x, 2, self.rows * self.block - self.length)
        x = ops.reshape(x, (self.batch, self.groups, self.shared, self.rows, self.block, width))
        x = ops.transpose(x, (3, 0, 1, 2, 4, 5))
        return ops.reshape(x, (self.rows, self.batch, self.groups, self.shared * self.block, width))

    def _key_blocks(self, x):
        """(B, G, S, K) as (m, B, G, b, K)."""
        width = x.shape[-1]
        x = self._pad(x, 2, self.columns * self.block - self.keys)
        x = ops.reshape(x, (self.batch, self.groups, self.columns, self.block, width))
        return ops.transpose(x, (2, 0, 1, 3, 4))

    def _joined(self, blocks, length):
        """(n, B, G, R b, K) as (B, H, T, K), or (m, B, G, b, K) as (B, G, S, K)."""
        count, _, groups, size, width = ops.shape(blocks)
        blocks = ops.reshape(blocks, (count, self.batch, groups, size // self.block, self.block, width))
        blocks = ops.transpose(blocks, (1, 2, 3, 0, 4, 5))
        heads = groups * (size // self.block)
        return ops.reshape(blocks, (self.batch, heads, count * self.block, width))[:, :, :length]

    def _token_blocks(self, x, count, length):
        """(B or 1, T) as (n, B or 1, b)."""
        x = self._pad(x, 1, count * self.block - length)
        return ops.transpose(ops.reshape(x, (ops.shape(x)[0], count, self.block)), (1, 0, 2))

    def _pad_pairs(self, x):
        """(B or 1, H or 1, T or 1, S or 1), lengthened to whole blocks."""
        if x.shape[2] != 1:
            x = self._pad(x, 2, self.rows * self.block - self.length)
        return x if x.shape[3] == 1 else self._pad(x, 3, self.columns * self.block - self.keys)

    def _pair_block(self, x, i, j):
        """The block (i, j) of what `_pad_pairs` returned."""
        high, wide = (1 if x.shape[axis] == 1 else self.block for axis in (2, 3))
        start = (0, 0, 0 if high == 1 else i * self.block, 0 if wide == 1 else j * self.block)
        return ops.slice(x, start, (*ops.shape(x)[:2], high, wide))

    def _split_heads(self, x):
        """(B, H or 1, b, b) as (B, G, R, b, b) or (B, 1, 1, b, b)."""
        batch, heads, high, wide = ops.shape(x)
        one = (1, 1) if heads == 1 else (self.groups, self.shared)
        return ops.reshape(x, (batch, *one, high, wide))

    @staticmethod
    def _over_pairs(x):
        """(B, b or 1, b) as (B, 1, 1, b or 1, b)."""
        return ops.expand_dims(ops.expand_dims(x, 1), 1)

    def _of_heads(self, x):
        """(H,) as (1, G, R b, 1)."""
        x = ops.broadcast_to(
            ops.reshape(x, (1, self.groups, self.shared, 1)), (1, self.groups, self.shared, self.block)
        )
        return ops.reshape(x, (1, self.groups, self.shared * self.block, 1))

    @staticmethod
    def _pad(x, axis: int, count, before: bool = False):
        """`x` with `count` zeros along an axis."""
        if isinstance(count, int) and count == 0:
            return x
        shape = list(ops.shape(x))
        shape[axis] = count
        zeros = ops.zeros(shape, x.dtype)
        return ops.concatenate([zeros, x] if before else [x, zeros], axis=axis)
