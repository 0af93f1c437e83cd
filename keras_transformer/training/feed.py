"""Batches by number, and how they reach `fit`: as they are on every backend, or as a `tf.data.Dataset`."""

import copy
import functools
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_transformer._keras import DataAdapter, who_asks
from keras_transformer.training.examples import Examples
from keras_transformer_runtime.packages import needed

AHEAD = 4  # batches that are made before they are asked for, where no tf.data.Dataset makes them


class Course:
    """How far somebody is who goes through the epochs: an epoch that is not gone through to its end begins again."""

    def __init__(self, first_step: int, steps_per_epoch: int):
        self.next_step = first_step  # at which the next epoch begins
        self._steps = steps_per_epoch

    def epoch_end(self, step: int) -> int:
        """The first step of the epoch after that of `step`."""
        return (step // self._steps + 1) * self._steps

    def passed(self, step: int) -> np.int64:
        """Note that the batch at `step` was taken."""
        if self.epoch_end(step) == step + 1:
            self.next_step = int(step) + 1
        return np.int64(step)


class Feed(DataAdapter):
    """Batches by number as data of `fit`: an epoch after the other, from any step on.

    A subclass has `batch(step)`, `steps_per_epoch` and `shapes`, all that batches may have.
    """

    def __init__(self):
        self.first_step = 0
        self._courses = weakref.WeakKeyDictionary()

    def batch(self, step: int) -> tuple:
        """The batch at `step`, counted from the beginning of the first epoch, in NumPy: (inputs, labels)."""
        raise NotImplementedError

    def from_step(self, first_step: int) -> "Feed":
        """The same batches for a `fit` that begins at another step than 0.

        `model.fit(batches.from_step(position.step), initial_epoch=position.epoch, callbacks=[..., checkpoints])` goes
        on where `Checkpoints` stopped, within an epoch, too: its first epoch has the steps that were left of it.
        """
        begun = copy.copy(self)
        begun.first_step, begun._courses = self._checked("from_step", first_step), weakref.WeakKeyDictionary()
        return begun

    def _checked(self, caller: str, step) -> int:
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
            raise ValueError(
                f"{type(self).__name__}.{caller} takes a step, an integer of at least 0. Received: {step!r}"
            )
        return int(step)

    def dataset(self, first_step: int = 0, *, epochs: int | None = None) -> Iterable:
        """The batches from `first_step` on, made in parallel and ahead of use, as a `tf.data.Dataset`.

        It has the batches of one epoch, and iterated over again those of the next, as `fit` does in each of its
        epochs; `.repeat()` makes it endless. With `epochs` it has those of several epochs in a row. From a step within
        an epoch on it is endless, since `fit` takes all epochs of a dataset for equally long: there `fit` needs
        `steps_per_epoch`. In all forms what follows the first n batches begins at once, without making those.

        Args:
            first_step: The number of the first batch, counted from the beginning of the first epoch.
            epochs: The dataset ends after so many epochs, counted from the first one.

        Raises:
            ValueError: If `first_step` is negative, or does not lie in the first `epochs` epochs.
        """
        tf = needed("tensorflow", f"{type(self).__name__}.dataset")
        first_step = self._checked("dataset", first_step)
        last = None if epochs is None else epochs * self.steps_per_epoch
        if last is not None and first_step >= last:
            raise ValueError(
                f"{type(self).__name__}.dataset takes a first_step below {last}, where epoch {epochs} ends. "
                f"Received: {first_step}"
            )
        if last is not None:
            made = self._made(tf.data.Dataset.range(first_step, last)).map(lambda step, batch: batch)
        elif first_step % self.steps_per_epoch:
            made = self._made(tf.data.Dataset.counter(first_step)).map(lambda step, batch: batch)
        else:
            made = self._by_epoch(Course(first_step, self.steps_per_epoch))
            made = made.apply(tf.data.experimental.assert_cardinality(self.steps_per_epoch))
        return self._telling(made)

    def _made(self, steps):
        """A `tf.data.Dataset` of step numbers with their batches."""
        import tensorflow as tf

        structure = self.batch(self.first_step)
        template = tf.nest.flatten(structure)

        def make(step):
            arrays = tf.numpy_function(
                lambda step: tf.nest.flatten(self.batch(int(step))), [step], [tf.int32] * len(template), stateful=False
            )
            for array, like in zip(arrays, template, strict=True):
                array.set_shape(like.shape if len(self.shapes) == 1 else (None, None))
            return step, tf.nest.pack_sequence_as(structure, arrays)

        return steps.map(make, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _by_epoch(self, course: Course):
        """A `tf.data.Dataset` of the epoch at which `course` is when the iteration begins."""
        import tensorflow as tf

        begin = tf.data.Dataset.range(1).map(
            lambda _: tf.ensure_shape(tf.numpy_function(lambda: np.int64(course.next_step), [], tf.int64), [])
        )
        steps = begin.flat_map(lambda step: tf.data.Dataset.range(step, course.epoch_end(step)))

        def passed(step, batch):  # behind what is made ahead
            with tf.control_dependencies([tf.numpy_function(course.passed, [step], tf.int64)]):
                return tf.nest.map_structure(tf.identity, batch)

        return self._made(steps).map(passed)

    def _telling(self, dataset):
        """The dataset, which may look at who asks for its length."""
        return dataset

    # What Keras asks. There is one `EpochIterator` to each `fit`, and to each validation within it.

    def _course(self) -> tuple[Course, bool]:
        """That of the `fit` that asks, and whether its iteration goes on for ever, as `steps_per_epoch` counts."""
        asking = who_asks(self)
        if asking.epochs is None:
            return Course(self.first_step, self.steps_per_epoch), False
        if asking.epochs not in self._courses:
            self._courses[asking.epochs] = Course(self.first_step, self.steps_per_epoch)
        return self._courses[asking.epochs], asking.epochs.steps_per_epoch is not None

    @property
    def num_batches(self) -> int | None:
        """How many an epoch has; None, as of endless data, to a `fit` with `steps_per_epoch`."""
        asking = who_asks(self)
        refused = [name for name in ("y", "sample_weight", "class_weight") if asking.arguments.get(name) is not None]
        if refused:
            raise ValueError(
                f"{type(self).__name__} has the labels in its batches, and takes no {' and no '.join(refused)} beside. "
                "To weigh tokens, map `dataset()` to (inputs, labels, weights)."
            )
        self._check_model(asking.model)
        if asking.epochs is not None:  # `fit` begins: what it read to build the model it reads again
            self._courses.pop(asking.epochs, None)
        return self.steps_per_epoch if asking.epochs is None or asking.epochs.steps_per_epoch is None else None

    def _check_model(self, model: keras.Model | None) -> None:
        """Refuse a model that cannot take the batches as they are meant."""

    batch_size = has_partial_batch = partial_batch_size = None  # of no interest where batches come whole

    def get_numpy_iterator(self) -> Iterator:
        """The batches of the next epoch."""
        return self._iterate(*self._course())

    get_jax_iterator = get_numpy_iterator

    def get_torch_dataloader(self) -> Iterator:
        """The batches of the next epoch, as tensors of the backend."""
        return (keras.tree.map_structure(keras.ops.convert_to_tensor, batch) for batch in self.get_numpy_iterator())

    def get_tf_dataset(self):
        """A dataset of the next epoch, whenever it is iterated over."""
        import tensorflow as tf

        course, endless = self._course()
        if endless:
            return self._made(tf.data.Dataset.counter(self.first_step)).map(lambda step, batch: batch)
        return self._by_epoch(course)

    def _iterate(self, course: Course, endless: bool) -> Iterator:
        first = course.next_step
        steps = itertools.count(first) if endless else range(first, course.epoch_end(first))
        steps, waiting = iter(steps), deque()
        pool = ThreadPoolExecutor(1)
        try:
            while True:
                for step in itertools.islice(steps, AHEAD - len(waiting)):
                    waiting.append((step, pool.submit(self.batch, step)))
                if not waiting:
                    return
                step, made = waiting.popleft()
                batch = made.result()
                course.passed(step)
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Batches(Feed):
    """Base of `TokenBatches` and `PackedBatches`: batches by number, the same whenever they are asked for.

    A subclass sets `shapes` and `positions`, what `_draw` returns for an epoch has `steps_per_epoch` entries, and
    `_assemble` makes a batch of one.
    """

    def __init__(self, examples: Sequence, *, limit: dict, seed: int, shuffle: bool, shard: Sequence[int], **options):
        owner = type(self).__name__
        index, count = shard if isinstance(shard, list | tuple) and len(shard) == 2 else (-1, 0)
        if not 0 <= index < count:
            raise ValueError(f"{owner} takes shard=(index, count) with 0 <= index < count. Received: {shard!r}")
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
            raise ValueError(
                f"{owner} takes an integer of at least 0 as seed, shuffled or not: with the number of an epoch it "
                f"makes the order, which has to be the same when a training goes on. Received: {seed!r}"
            )
        super().__init__()
        self.seed = int(seed)
        self.shuffle = shuffle
        self._shard, self._shards = index, count
        self._examples = Examples(owner, examples, limit=limit, **options)
        self._lock = threading.Lock()
        self._epoch = functools.lru_cache(maxsize=2)(self._draw)

    def _random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch))

    def _draw(self, epoch: int) -> list:
        """What `_assemble` makes the batches of an epoch from, in order."""
        raise NotImplementedError

    def _assemble(self, drawn):
        raise NotImplementedError

    @property
    def shifted(self) -> bool:
        """Whether labels are the ids that follow, or else those of the input."""
        return self._examples.shift

    @property
    def shard_index(self) -> int:
        """Which of the workers makes these."""
        return self._shard

    @property
    def num_examples(self) -> int:
        """How many examples an epoch has, those that are too long left out."""
        return len(self._examples)

    @property
    def too_long(self) -> int:
        """How many examples were left out because they are too long."""
        return self._examples.too_long

    @property
    def num_tokens(self) -> int:
        """How many tokens the model is given in an epoch, by all workers: of sources and of decoder inputs."""
        return int(self._examples.lengths.sum(dtype="int64"))

    @property
    def padding_ratio(self) -> float:
        """The share of padding in all positions of an epoch."""
        return 1 - self.num_tokens / self.positions

    @property
    def ignore_id(self) -> int:
        """What labels are filled with: the `ignore_id` that loss and metrics have to have."""
        return self._examples.ignore_id

    def batch(self, step: int) -> tuple:
        """The batch at `step`, counted from the beginning of the first epoch, in NumPy: (inputs, labels)."""
        epoch, number = divmod(self._checked("batch", step), self.steps_per_epoch)
        with self._lock:  # so that an epoch is drawn once, not by every thread that waits for it
            drawn = self._epoch(epoch)
        return self._assemble(drawn[number])

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {self.num_examples:,} examples ({self.too_long:,} too long), {self.num_tokens:,} "
            f"tokens, {self.steps_per_epoch:,} steps per epoch, {len(self.shapes)} shapes, "
            f"{self.padding_ratio:.1%} padding>"
        )
