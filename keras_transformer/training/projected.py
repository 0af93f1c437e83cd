"""The cross-entropy of hidden states and the matrix that makes logits of them; the logits of all are never held.

For a block of tokens at a time the logits Z = H E^T are made, the losses, and at once the gradients of their sum, with
P = softmax(Z):

    dZ = P - (1 - e) onehot(y) - e / V, dH = w dZ E, dE += dZ^T (w H)

so that nothing is computed twice: the loss is a sum with the known weights w, and what comes from above in the gradient
is one number that multiplies all. Shapes: N tokens, D width, V vocabulary; n blocks of b tokens.
"""

import keras
from keras import ops

from keras_transformer.ops.blocks import each_block, empty_blocks, stack_blocks, with_gradient, write_block
from keras_transformer.training.losses import replaced

# Tokens of a block, at least: each reads and writes the gradient of the matrix, (V, D), so there should be few blocks;
# but the logits of one, (b, V), are held two or three times over (benchmarks/losses.py).
BLOCK = 384
LOGITS = 2**23  # of a block where the vocabulary is small: 32 MiB
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
            summed = [] if frozen else [ops.zeros(x.shape, self.sum_dtype) for x in (self.matrix, *self.bias)]

        def step(i, *carried):
            hidden, weights = self.hidden[i], ops.expand_dims(self.weights[i], -1)
            known, to_logits = self._losses(i, hidden)
            found = [known]
            if gradients:
                to_logits = ops.cast(to_logits, self.dtype)
                to_hidden = self._product(f"nv,{self.axes}->nd", to_logits, self.matrix)
                found.append(ops.cast(to_hidden * weights, self.dtype))
            written = [write_block(blocks, i, x) for blocks, x in zip(carried, found, strict=False)]
            sums = list(carried[len(found) :])
            if sums:
                weighted = hidden * ops.cast(weights, self.dtype)
                sums[0] = sums[0] + self._product(f"nv,nd->{self.axes}", to_logits, weighted)
            if self.bias and sums:
                sums[1] = sums[1] + self._product("nv,n->v", to_logits, ops.cast(self.weights[i], self.dtype))
            return *written, *sums

        by_token_and_sums = each_block(self.tokens.used, step, (*by_token, *summed))
        known = ops.transpose(self.tokens.join(stack_blocks(by_token_and_sums[0])))
        if not gradients:
            return known, None
        to_hidden = self.tokens.join(stack_blocks(by_token_and_sums[1]))
        return known, [to_hidden, *(by_token_and_sums[2:] or [None, *(None for _ in self.bias)])]

    def _losses(self, i, hidden) -> tuple:
        """Of block i what is known of each token, (b, 3), and the gradient dZ of the sum of the losses, (b, V)."""
        labels, smoothing = ops.expand_dims(self.labels[i], -1), self.label_smoothing
        logits = self._product(f"nd,{self.axes}->nv", hidden, self.matrix)
        for bias in self.bias:
            logits = logits + ops.cast(bias, self.sum_dtype)
        probabilities = ops.softmax(logits)
        highest = ops.max(logits, axis=-1, keepdims=True)
        # exp(max z - logsumexp z) is the largest probability, at least 1 / V: its logarithm is exact.
        normalizer = highest - ops.log(ops.max(probabilities, axis=-1, keepdims=True))
        label_logit = ops.take_along_axis(logits, labels, axis=-1)  # (b, 1)
        loss = normalizer - (1 - smoothing) * label_logit
        if smoothing:
            loss = loss - smoothing * ops.mean(logits, axis=-1, keepdims=True)
            probabilities = probabilities - smoothing / self.vocabulary_size
        hit = ops.cast(label_logit >= highest, self.sum_dtype)
        at_label = ops.exp(label_logit - normalizer) - (1 - smoothing) - smoothing / self.vocabulary_size
        to_logits = replaced(probabilities, labels, at_label)
        return ops.concatenate([loss, normalizer - label_logit, hit], axis=-1), to_logits

    def _product(self, equation: str, left, right):
        """A product in the type of the hidden states, as a sum in float32."""
        if keras.backend.backend() == "jax":  # which hands over the sum before it is rounded
            import jax.numpy as jnp

            return jnp.einsum(equation, left, right, preferred_element_type=self.sum_dtype)
        return ops.cast(ops.einsum(equation, left, right), self.sum_dtype)


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
