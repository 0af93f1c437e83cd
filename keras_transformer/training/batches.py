"""Resumable batches of sequences of similar length, as many as a budget of tokens allows."""

from collections.abc import Callable, Sequence

import numpy as np

from keras_transformer.training.examples import is_positive, place
from keras_transformer.training.feed import Batches


class TokenBatches(Batches):
    """Batches of sequences of similar length, each with about as many tokens, for `model.fit`.

    A sequence is padded to the next of a few lengths, the boundaries, and batched with others of that length:
    `tokens_per_batch` divided by the length is the number of rows ("Attention Is All You Need", section 5.1). A pair
    has the length of its longer side, and both sides are padded to the same boundary. A model that is compiled for
    each shape is compiled for as many as `shapes` lists.

    Each epoch has every example once, in an order that is a function of (seed, epoch) only. So the batch of any step
    is found directly, and training continues exactly where it stopped, with `from_step(step)`. What is too
    little for a batch moves on to the next boundary, unless rows of padding alone pad less: then they fill the batch,
    as they do the last one. So every batch of a boundary has the same shape, and every epoch as many.

    With several workers, each makes one for itself from the same arguments but for `shard`. At each step all have
    batches of the same shape, with different examples; `tokens_per_batch` and `batch_size` are those of one worker.

    Args:
        examples: A sequence of pairs (source ids, target ids), or of ids for a language model, start and end
            included, padding not. It is asked for single examples, by number, so it need not lie in memory. With
            `tokenizers`, a sequence of texts or of pairs of them, as `read_texts` and `read_pairs` return it.
        tokens_per_batch: The most positions that a batch has on one side, padding included.
        batch_size: Rows of each batch, in place of `tokens_per_batch`.
        batch_size_multiple: What divides the number of rows, such as the number of replicas that a batch is dealt
            out to: `tokens_per_batch` gives no other numbers, and `batch_size` has to be one.
        boundaries: The lengths to pad to, increasing. Default: 4, 8, 12, 16, 20, and then each a quarter longer.
        max_length: Longer examples are left out, counted in `too_long`, with a warning; for pairs one number for both
            sides or one for each. A target, as a single sequence, counts without its last id if labels are shifted.
        tokenizers: What makes ids of texts, such as those of `kt.text`, or a function from a list of texts to a list of
            lists of ids; for pairs one for both sides or one for each.
        vocabulary_size: To check all ids; for pairs one number for both sides or one for each.
        padding_id: What inputs are padded with, the `padding_id` of the embedding; for pairs one for both sides or one
            for each. None: every id is a token, also 0, with which inputs are then filled on the right. Default: that
            of the tokenizers, or 0.
        ignore_id: What labels are padded with, the `ignore_id` of the loss. Default: the target's padding id; where it
            has none, -100.
        shift: Whether the labels of a single sequence are what follows, as a language model learns it. False: inputs
            and labels are both all of it, as `MaskedTokens` wants it.
        seed: Of the order, an integer of at least 0.
        shuffle: Whether to draw a new order for each epoch; else shorter sequences come first, in the order given.
        shard: (index, count) of the worker.

    Attributes: `steps_per_epoch`; `shapes`, the (rows, length) that batches have; `num_examples`, `num_tokens`,
        `padding_ratio` and `too_long`, of one epoch of all workers; `ignore_id`.

    Batches: for pairs ((source, decoder input), labels), else (inputs, labels), int32, (B, L) each, padded on the
        right. The decoder input is the target without its last id, the labels are the target without its first.

    Raises:
        ValueError: If there are no examples, or one is too short, is not of integers, holds the padding id, the
            `ignore_id` or an id outside of the vocabulary; if neither or both of `tokens_per_batch` and `batch_size`
            are given, or the budget is smaller than the longest sequence, or `batch_size_multiple` does not divide
            `batch_size`; if boundaries do not increase or end before the longest sequence; if sources have no padding
            id; if the seed or the shard is none.

    Example:

    >>> import keras_transformer as kt
    >>> pairs = [([5, 6, 3], [2, 7, 8, 3]), ([5, 3], [2, 9, 3]), ([6, 6, 5, 5, 3], [2, 7, 3])]
    >>> batches = kt.training.TokenBatches(pairs, tokens_per_batch=16, boundaries=[4, 8], shuffle=False)
    >>> batches
    <TokenBatches: 3 examples (0 too long), 17 tokens, 2 steps per epoch, 2 shapes, 73.4% padding>
    >>> (source, decoder_input), labels = batches.batch(0)
    >>> source[:2].tolist(), decoder_input[:2].tolist(), labels[:2].tolist()
    ([[5, 6, 3, 0], [5, 3, 0, 0]], [[2, 7, 8, 0], [2, 9, 0, 0]], [[7, 8, 3, 0], [9, 3, 0, 0]])

    `model.fit(batches, epochs=10)` trains, on every backend, each epoch in its own order; after three epochs
    `model.fit(batches.from_step(3 * batches.steps_per_epoch), initial_epoch=3, epochs=10)` goes on.
    """

    def __init__(
        self,
        examples: Sequence,
        *,
        tokens_per_batch: int | None = None,
        batch_size: int | None = None,
        batch_size_multiple: int = 1,
        boundaries: Sequence[int] | None = None,
        max_length: int | tuple[int, int] | None = None,
        tokenizers: Callable | tuple[Callable, Callable] | None = None,
        vocabulary_size: int | tuple[int, int] | None = None,
        padding_id: int | None | str | tuple = "auto",
        ignore_id: int | None = None,
        shift: bool = True,
        seed: int = 0,
        shuffle: bool = True,
        shard: tuple[int, int] = (0, 1),
    ):
        if (tokens_per_batch is None) == (batch_size is None):
            raise ValueError(
                "TokenBatches takes either tokens_per_batch or batch_size. "
                f"Received: tokens_per_batch={tokens_per_batch}, batch_size={batch_size}"
            )
        check_size("TokenBatches", batch_size_multiple=batch_size_multiple)
        if batch_size is None:
            check_size("TokenBatches", tokens_per_batch=tokens_per_batch)
        else:
            check_size("TokenBatches", batch_size=batch_size)
            if batch_size % batch_size_multiple:
                raise ValueError(
                    "TokenBatches takes a batch_size that batch_size_multiple divides. "
                    f"Received: batch_size={batch_size}, batch_size_multiple={batch_size_multiple}"
                )
        super().__init__(
            examples,
            tokenizers=tokenizers,
            vocabulary_size=vocabulary_size,
            padding_id=padding_id,
            ignore_id=ignore_id,
            shift=shift,
            limit={"max_length": max_length},
            seed=seed,
            shuffle=shuffle,
            shard=shard,
        )
        if self._examples.padding_ids[: self._examples.sides - 1] == [None]:
            raise ValueError(
                "TokenBatches pads sources, and a source whose padding_id is None would be read with its padding. Give "
                "the source's embedding a padding_id, and the same here."
            )
        lengths = self._examples.lengths.max(axis=1)
        longest = int(lengths.max())
        boundaries = _boundaries(longest) if boundaries is None else _checked_boundaries(boundaries, longest)
        sizes = [
            batch_size or tokens_per_batch // (boundary * batch_size_multiple) * batch_size_multiple
            for boundary in boundaries
        ]
        if not sizes[-1]:
            raise ValueError(
                f"TokenBatches: tokens_per_batch={tokens_per_batch} has no room for {batch_size_multiple} x the "
                f"longest sequence, of {longest} positions, padded to {boundaries[-1]}. Make it larger, or leave out "
                "long ones with max_length."
            )
        self._rows = list(zip(sizes, boundaries, strict=True))
        self._bucket = np.searchsorted(boundaries, lengths)
        first = self._epoch(0)
        self.steps_per_epoch = len(first)
        self.shapes = sorted({shape for shape, _ in first}, key=lambda shape: shape[1])
        self.positions = sum(rows * length for (rows, length), _ in first) * self._shards * self._examples.sides

    def _draw(self, epoch):
        random = self._random(epoch)
        order = random.permutation(self.num_examples) if self.shuffle else np.arange(self.num_examples)
        buckets = self._bucket[order]
        batches, left = [], order[:0]
        for number, (rows, length) in enumerate(self._rows):
            waiting = np.concatenate([left, order[buckets == number]])
            size = rows * self._shards
            whole = len(waiting) // size * size
            batches += [((rows, length), indices) for indices in waiting[:whole].reshape(-1, size)]
            left = waiting[whole:]
            following = self._rows[number + 1][1] if number + 1 < len(self._rows) else np.inf
            if len(left) and (size - len(left)) * length <= len(left) * (following - length):
                batches.append(((rows, length), left))
                left = left[:0]
        if self.shuffle:
            random.shuffle(batches)
        return batches

    def _assemble(self, drawn):
        shape, indices = drawn
        indices = indices[self._shard :: self._shards]
        sides, labels = self._examples.take(indices)
        rows = np.arange(len(indices))
        *source, target = (
            place(ids, lengths, rows, 0 * rows, shape, padding)
            for (ids, lengths), padding in zip(sides, self._examples.padding_ids, strict=True)
        )
        labels = place(labels, sides[-1][1], rows, 0 * rows, shape, self.ignore_id)
        return (*source, target) if source else target, labels


def check_size(owner: str, **values) -> None:
    """Raise ValueError unless each value is a positive integer."""
    for name, value in values.items():
        if not is_positive(value):
            raise ValueError(f"{owner} takes a positive integer as {name}. Received: {value!r}")


def _boundaries(longest: int) -> list[int]:
    """Multiples of 4, each a quarter longer than the one before or a little more."""
    boundaries = [4.0]
    while boundaries[-1] < longest:
        boundaries.append(-(-max(boundaries[-1] + 4, 1.25 * boundaries[-1]) // 4) * 4)
    return [int(boundary) for boundary in boundaries]


def _checked_boundaries(boundaries: Sequence[int], longest: int) -> list[int]:
    boundaries = list(boundaries)
    for boundary in boundaries:
        check_size("TokenBatches", boundaries=boundary)
    if not boundaries or boundaries != sorted(set(boundaries)):
        raise ValueError(f"TokenBatches takes boundaries that increase. Received: {boundaries}")
    if boundaries[-1] < longest:
        raise ValueError(
            f"TokenBatches: the boundaries end at {boundaries[-1]}, the longest sequence has {longest} positions. Add "
            "a boundary for it, or leave out long ones with max_length."
        )
    return boundaries[: int(np.searchsorted(boundaries, longest)) + 1]
