"""Several sequences in one row, apart by segment ids: nearly no padding, and the loss of each as if it stood alone."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from keras_transformer._keras import input_names, who_asks
from keras_transformer.training.batches import check_size
from keras_transformer.training.examples import count_up, place
from keras_transformer.training.feed import Batches


class PackedBatches(Batches):
    """Batches of rows of one length, each filled with several whole sequences, for `model.fit`.

    The segment ids of a row, 1, 2, ..., say which positions belong to the same sequence; attention that is given them
    stays within it ("Exploring the Limits of Transfer Learning", https://arxiv.org/abs/1910.10683, section 3.1.2).
    Positions count up from 0 in each, and labels never reach into the next. So the summed loss and its gradients are
    those of the same sequences in rows of their own. Padding has the padding id, segment 0 and position 0, and as label
    the `ignore_id`.

    Sequences go, in an order drawn from the seed, into the first open row that has room ("first fit"); `window` rows
    are open at a time, and the fullest makes place for a new one. This is done once. Each epoch then draws, from (seed,
    epoch), the order of rows, and which of the sequences of a length goes where one of that length belongs. So every
    epoch has every example once, in as many batches; `batch` and `dataset` find any step directly, as those of
    `TokenBatches` do. Rows of padding alone fill the last batch.

    Args:
        examples, tokenizers, vocabulary_size, padding_id, ignore_id, shift, seed, shuffle, shard: As in `TokenBatches`.
        length: Of a row; for pairs one number for both sides, or one for each. Longer examples are left out, counted
            in `too_long`, with a warning. A target, as a single sequence, counts without its last id if labels are
            shifted.
        batch_size: Rows of a batch, of one worker.
        window: How many rows are open at a time. More of them leave less padding and take longer.

    Attributes: As those of `TokenBatches`. `shapes` has a single one, with the length of the target.

    Batches: (inputs, labels), int32, (B, L) each. The inputs are a dict: "tokens", "segment_ids" and "positions" for a
        language model; for pairs "source", "source_segment_ids", "source_positions", "target", "target_segment_ids"
        and "target_positions", where a target has the segment id of its source.

    Raises:
        ValueError: As `TokenBatches`, where it applies; by `fit`, if a functional model has no inputs for the segment
            ids, which Keras would leave out.

    Example:

    >>> import keras, keras_transformer as kt
    >>> sequences = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 8, 3], [2, 9, 3]]
    >>> batches = kt.training.PackedBatches(sequences, length=8, batch_size=2, shuffle=False)
    >>> inputs, labels = batches.batch(0)
    >>> inputs["tokens"].tolist(), labels.tolist()
    ([[2, 5, 6, 2, 7, 2, 9, 0], [2, 8, 9, 8, 0, 0, 0, 0]], [[5, 6, 3, 7, 3, 9, 3, 0], [8, 9, 8, 3, 0, 0, 0, 0]])
    >>> inputs["segment_ids"][0].tolist(), inputs["positions"][0].tolist()
    ([1, 1, 1, 2, 2, 3, 3, 0], [0, 1, 2, 0, 1, 0, 1, 0])

    A model that takes them; for generation, a second one of the same layers goes without the last two:

    >>> names = ["tokens", "segment_ids", "positions"]
    >>> tokens, segment_ids, positions = inputs = [keras.Input((None,), dtype="int32", name=name) for name in names]
    >>> embedding = kt.TokenEmbedding(11, 8)
    >>> x = kt.PositionalEncoding()(embedding(tokens), positions=positions)
    >>> x = kt.DecoderLayer(2, 16)(x, segment_ids=segment_ids)
    >>> model = keras.Model(dict(zip(names, inputs)), embedding(x, reverse=True))
    >>> model.compile("adam", kt.training.SequenceCrossentropy())
    >>> history = model.fit(batches, verbose=0)
    """

    def __init__(
        self,
        examples: Sequence,
        *,
        length: int | tuple[int, int],
        batch_size: int,
        window: int = 64,
        tokenizers: Callable | tuple[Callable, Callable] | None = None,
        vocabulary_size: int | tuple[int, int] | None = None,
        padding_id: int | None | str | tuple = "auto",
        ignore_id: int | None = None,
        shift: bool = True,
        seed: int = 0,
        shuffle: bool = True,
        shard: tuple[int, int] = (0, 1),
    ):
        check_size("PackedBatches", batch_size=batch_size, window=window)
        for one in length if isinstance(length, list | tuple) else [length]:
            check_size("PackedBatches", length=one)
        super().__init__(
            examples,
            tokenizers=tokenizers,
            vocabulary_size=vocabulary_size,
            padding_id=padding_id,
            ignore_id=ignore_id,
            shift=shift,
            limit={"length": length},
            seed=seed,
            shuffle=shuffle,
            shard=shard,
        )
        self._lengths = np.array(self._examples.limits)
        self._batch_size = batch_size
        order = np.random.default_rng(seed).permutation(self.num_examples) if shuffle else np.arange(self.num_examples)
        lengths = self._examples.lengths[order]
        rows, starts = first_fit(lengths, self._lengths, window)
        by_row = np.argsort(rows, kind="stable")
        # Slot s takes one sequence of the lengths of example `_first[s]`, which it holds if nothing is shuffled.
        self._first, self._starts = order[by_row], starts[by_row]
        self._row_ends = np.cumsum(np.bincount(rows))
        self.shapes = [(batch_size, int(self._lengths[-1]))]
        self.steps_per_epoch = -(-len(self._row_ends) // (batch_size * self._shards))
        self.positions = self.steps_per_epoch * self._shards * batch_size * int(self._lengths.sum())

    def _draw(self, epoch):
        rows, examples = np.arange(len(self._row_ends)), self._first
        if self.shuffle:
            random = self._random(epoch)
            random.shuffle(rows)
            kind = self._examples.lengths @ np.array([1, 1 << 31][: self._examples.sides])
            drawn = random.permutation(self.num_examples)
            examples = np.empty_like(self._first)
            examples[np.argsort(kind[self._first], kind="stable")] = drawn[np.argsort(kind[drawn], kind="stable")]
        size = self._batch_size * self._shards
        return [(rows[i : i + size], examples) for i in range(0, len(rows), size)]

    def _assemble(self, drawn):
        rows, examples = drawn
        rows = rows[self._shard :: self._shards]
        begins = np.where(rows > 0, self._row_ends[rows - 1], 0)
        counts = self._row_ends[rows] - begins
        segments = count_up(counts)
        slots = np.repeat(begins, counts) + segments
        where = np.repeat(np.arange(len(rows)), counts)
        sides, labels = self._examples.take(examples[slots])
        inputs = {}
        for side, (name, (ids, lengths)) in enumerate(
            zip(("source", "target") if self._examples.paired else ("tokens",), sides, strict=True)
        ):
            prefix = f"{name}_" if self._examples.paired else ""
            put = (lengths, where, self._starts[slots, side], (self._batch_size, self._lengths[side]))
            inputs[name] = place(ids, *put, self._examples.padding_ids[side])
            inputs[f"{prefix}segment_ids"] = place(np.repeat(segments + 1, lengths), *put)
            inputs[f"{prefix}positions"] = place(count_up(lengths), *put)
        return inputs, place(labels, *put, self.ignore_id)

    def _check_model(self, model):
        names = input_names(model)
        if names is None:
            return
        missing = sorted(self.batch(self.first_step)[0].keys() - names)
        message = (
            f"PackedBatches: the model '{model.name}' has no input named {' and none named '.join(missing)}, and Keras "
            "leaves out what a model does not take. "
        )
        if any(name.endswith("segment_ids") for name in missing):
            raise ValueError(
                f"{message}Each sequence would see those before it in its row. Make the model with `packed=True` if it "
                "is of `kt.models`, or give it the inputs, as the example of PackedBatches does."
            )
        if missing:
            warnings.warn(
                f"{message}Only positions that are relative, as those of RotaryPosition, can do without.", stacklevel=5
            )

    def _telling(self, dataset):
        cardinality = dataset.cardinality

        def asked():
            self._check_model(who_asks(dataset).model)
            return cardinality()

        dataset.cardinality = asked  # the one thing that `fit` asks of a dataset before it begins
        return dataset


def first_fit(lengths, capacity, window: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of the sequences, (N, K) lengths, the row that it goes to, (N,), and where it starts there, (N, K).

    Each goes to the first of the open rows that has room on all K sides, of `capacity` (K,) each; if there is none, a
    new row takes the place of the fullest.
    """
    free = np.zeros((window, len(capacity)), "int64")
    numbers = np.zeros(window, "int64")
    rows, starts, opened = np.empty(len(lengths), "int64"), np.empty(lengths.shape, "int64"), 0
    for i, length in enumerate(lengths):
        fits = (free >= length).all(axis=1)
        number = int(fits.argmax())
        if not fits[number]:
            number = int(free.min(axis=1).argmin())
            numbers[number], free[number], opened = opened, capacity, opened + 1
        rows[i], starts[i] = numbers[number], capacity - free[number]
        free[number] -= length
    return rows, starts
