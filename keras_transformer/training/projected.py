"""The cross-entropy of hidden states and the matrix that makes logits of them; the logits of all are never held.

For a block of tokens at a time the logits Z = H E^T are made, the losses, and at once the gradients of their sum, with
P = softmax(Z):

    dZ = P - (1 - e) onehot(y) - e / V, dH = w dZ E, dE += dZ^T (w H)

so that nothing is computed twice: the loss is a sum with the known weights w, and what comes from above in the gradient
is one number that multiplies all. Shapes: N tokens, D width, V vocabulary; n blocks of b tokens.
"""

import keras
from keras import ops

from keras_transformer.ops.blocks import after, empty_blocks, loop, stack_blocks, with_gradient, write_block
from keras_transformer.training.losses import picked, replaced

# Tokens of a block, at least: each reads and writes the gradient of the matrix, (V, D), so there should be few blocks;
# but the logits of one, (b, V), are held two or three times over (benchmarks/losses.py).
BLOCK = 256
LOGITS = 2**23  # of a block where the vocabulary is small: 32 MiB
LARGE = 2**24  # numbers of a matrix of which more than one counts: 64 MiB
LOSS, LIKELIHOOD, HIT = range(3)


def projected_crossentropy(
    hidden,
    matrix,
    bias,
    labels,
    weights,
    *,
    axes: str = "vd",
    label_smoothing: float = 0.0,
    training: bool = True,
    frozen: bool = False,
    block: int | None = None,
):
    """The sum of the losses of the tokens, each times its weight, and what is known of each token.

    Args:
        hidden: (N, D), float; products are made in its type, sums in float32.
        matrix: Its axes in the order that `axes` says: "vd" for (V, D), "dv" for (D, V).
        bias: (V,), or None.
        labels: (N,), int32 in 0...V-1, or -1 for a token that is left out.
        weights: (N,), float. They have no gradient.
        label_smoothing: e above.
        training: Whether the gradients are computed with the loss. If not, they are when they are asked for.
        frozen: Whether nobody will ask for the gradients of `matrix` and `bias`.
        block: b. Default: by the size of the vocabulary.

    Returns:
        The sum, and (3, N): of each token the loss, the negative log-likelihood, and 1 where the label has the highest
        logit, else 0; all 0 for a token that is left out. Only the sum has a gradient.
    """
    block = block or max(BLOCK, LOGITS // matrix.shape[axes.index("v")])
    floats = [x for x in (hidden, matrix, bias) if x is not None]

    def run(given, gradients: bool):
        *tensors, labels, weights = given
        blocks = _Projection(tensors, labels, weights, axes, label_smoothing, block)
        return blocks.run(gradients, frozen)

    def forward(*given):
        known, gradients = run(given, training)
        return known, (given, gradients)

    def backward(kept, upstream):
        given, gradients = kept
        if gradients is None:
            _, gradients = run(given, True)
        weights = given[-1]  # of the three rows only the sum below has a gradient: some number times the weights
        total = ops.sum(ops.abs(weights))
        number = ops.sum(upstream[LOSS] * ops.sign(weights)) / ops.where(total > 0, total, 1.0)
        scaled = [
            None if gradient is None else ops.cast(gradient * ops.cast(number, gradient.dtype), tensor.dtype)
            for gradient, tensor in zip(gradients, given[:-2], strict=True)
        ]
        return [*scaled, None, None]

    weights = ops.cast(ops.stop_gradient(weights), keras.backend.result_type(hidden.dtype, "float32"))
    known = with_gradient(forward, backward)(*floats, labels, weights)
    return ops.sum(known[LOSS] * weights), known


class _Projection:
    """One pass over the blocks, with the gradients or without."""

    def __init__(self, tensors: list, labels, weights, axes: str, label_smoothing: float, block: int):
        hidden, matrix, *bias = tensors
        self.axes, self.label_smoothing = axes, label_smoothing
        self.dtype, self.sum_dtype = hidden.dtype, weights.dtype
        self.matrix, self.bias = ops.cast(matrix, self.dtype), bias
        self.vocabulary_size = matrix.shape[axes.index("v")]
        real = labels >= 0
        self.tokens = _Tokens(real, block)
        self.hidden = self.tokens.split(hidden)
        self.labels = self.tokens.split(ops.where(real, labels, 0))
        self.weights = self.tokens.split_weights(weights)

    def run(self, gradients: bool, frozen: bool) -> tuple:
        """(3, N) as of `projected_crossentropy`; the gradients of hidden, matrix and bias, in this order, or None."""
        count, size, width = ops.shape(self.hidden)
        by_token = [empty_blocks(count, (size, 3), self.sum_dtype)]
        summed = []
        if gradients:
            by_token.append(empty_blocks(count, (size, width), self.dtype))
            shapes = [] if frozen else [*self._parts(width), *(x.shape for x in self.bias)]
            summed = [ops.zeros(shape, self.sum_dtype) for shape in shapes]

        def step(i, *carried):
            hidden, weights = self.hidden[i], ops.expand_dims(self.weights[i], -1)
            known, to_logits = self._losses(i, hidden)
            found = [known]
            if gradients:
                to_logits = ops.cast(to_logits, self.dtype)
                to_hidden = self._product(to_logits, self.matrix, transposed=(False, self.axes == "dv"))
                found.append(ops.cast(to_hidden * weights, self.dtype))
            written = [write_block(blocks, i, x) for blocks, x in zip(carried, found, strict=False)]
            sums = list(carried[len(found) :])
            if sums:
                weighted = ops.split(hidden * ops.cast(weights, self.dtype), len(sums) - len(self.bias), axis=-1)
                for k, part in enumerate(weighted):  # one after the other, as each product is held beside its sum
                    pair = after(to_logits, *sums[:k]), part
                    pair = pair if self.axes == "vd" else pair[::-1]
                    sums[k] = sums[k] + self._product(*pair, transposed=(True, False))
            if self.bias and sums:
                to_bias = self._product(ops.cast(weights, self.dtype), to_logits, transposed=(True, False))
                sums[-1] = sums[-1] + to_bias[0]
            return *written, *sums

        known, *others = loop(0, self.tokens.used, step, (*by_token, *summed))
        known = ops.transpose(self.tokens.join(stack_blocks(known)))
        if not gradients:
            return known, None
        to_hidden, to_matrix = self.tokens.join(stack_blocks(others[0])), others[1:]
        if frozen:
            return known, [to_hidden, None, *(None for _ in self.bias)]
        to_bias = [to_matrix.pop() for _ in self.bias]
        whole = to_matrix[0] if len(to_matrix) == 1 else ops.concatenate(to_matrix, axis=self.axes.index("d"))
        return known, [to_hidden, whole, *to_bias]

    def _parts(self, width: int) -> list:
        """The shapes of what the gradient of the matrix is summed up in: a large one in two halves of its width."""
        count = 2 if width % 2 == 0 and width * self.vocabulary_size >= LARGE else 1
        part = width // count
        return count * [(self.vocabulary_size, part) if self.axes == "vd" else (part, self.vocabulary_size)]

    def _losses(self, i, hidden) -> tuple:
        """Of block i what is known of each token, (b, 3), and the gradient dZ of the sum of the losses, (b, V)."""
        labels, smoothing = ops.expand_dims(self.labels[i], -1), self.label_smoothing
        logits = self._product(hidden, self.matrix, transposed=(False, self.axes == "vd"))
        for bias in self.bias:
            logits = logits + ops.cast(bias, self.sum_dtype)
        highest = ops.max(logits, axis=-1, keepdims=True)
        label_logit = picked(logits, labels)  # (b, 1)
        mean = ops.mean(logits, axis=-1, keepdims=True) if smoothing else 0
        probabilities = ops.softmax(after(logits, highest, label_logit, mean))
        # exp(max z - logsumexp z) is the largest probability, at least 1 / V: its logarithm is exact.
        normalizer = highest - ops.log(ops.max(probabilities, axis=-1, keepdims=True))
        loss = normalizer - (1 - smoothing) * label_logit - smoothing * mean
        probabilities = after(probabilities, normalizer)
        if smoothing:
            probabilities = probabilities - smoothing / self.vocabulary_size
        hit = ops.cast(label_logit >= highest, self.sum_dtype)
        at_label = ops.exp(label_logit - normalizer) - (1 - smoothing) - smoothing / self.vocabulary_size
        to_logits = replaced(probabilities, labels, at_label)
        return ops.concatenate([loss, normalizer - label_logit, hit], axis=-1), to_logits

    def _product(self, left, right, transposed: tuple):
        """A product of two matrices, one of them transposed, in their type, as a sum in float32."""
        if keras.backend.backend() == "tensorflow":  # to transpose a matrix by itself would copy it
            import tensorflow as tf

            product = tf.matmul(left, right, *transposed)
        else:
            left, right = (ops.transpose(x) if yes else x for x, yes in zip((left, right), transposed, strict=True))
            if keras.backend.backend() == "jax":  # which hands the sum over before it is rounded
                import jax.numpy as jnp

                return jnp.matmul(left, right, preferred_element_type=self.sum_dtype)
            product = ops.matmul(left, right)
        return ops.cast(product, self.sum_dtype)


class _Tokens:
    """N tokens as n blocks of b: those that count come first, and blocks behind them are not used.

    Where arrays are distributed over devices, each block has tokens of all of them instead, and all blocks are used.

    Attributes:
        used: How many blocks are.
    """

    def __init__(self, real, block: int):
        self.real, self.count = real, ops.shape(real)[0]
        self.blocks = -(-self.count // block)
        self.size = -(-self.count // self.blocks)
        self.used, self.order = self.blocks, None
        if keras.distribution.distribution() is None:
            ones = ops.cast(real, "int32")
            before, total = ops.cumsum(ones), ops.sum(ones)
            # The place of each token, and the token at each place; at places too many the last one once more.
            self.places = ops.where(real, before, total + ops.arange(1, self.count + 1, dtype="int32") - before) - 1
            places = ops.arange(self.blocks * self.size, dtype="int32")
            self.order = ops.take(ops.argsort(self.places), ops.minimum(places, self.count - 1))
            self.used, self.is_used = -(-total // self.size), places < total

    def split(self, x):
        """(N, ...) as (n, b, ...)."""
        if self.order is not None:
            return ops.reshape(ops.take(x, self.order, axis=0), (self.blocks, self.size, *x.shape[1:]))
        missing = self.blocks * self.size - self.count
        x = ops.concatenate([x, ops.zeros((missing, *x.shape[1:]), x.dtype)])
        return ops.swapaxes(ops.reshape(x, (self.size, self.blocks, *x.shape[1:])), 0, 1)

    def split_weights(self, weights):
        """(N,) as (n, b), 0 where no token counts."""
        blocks = self.split(ops.where(self.real, weights, 0))
        return blocks if self.order is None else ops.where(ops.reshape(self.is_used, ops.shape(blocks)), blocks, 0)

    def join(self, blocks):
        """(n, b, ...) as (N, ...), 0 for a token that does not count."""
        blocks = blocks if self.order is not None else ops.swapaxes(blocks, 0, 1)
        x = ops.reshape(blocks, (-1, *blocks.shape[2:]))
        x = x[: self.count] if self.order is None else ops.take(x, self.places, axis=0)
        return ops.where(ops.reshape(self.real, (-1, 1)), x, 0)
