"""Packed rows: what they hold, and that training on them is training on the same sequences one by one."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.training import PackedBatches
from keras_transformer.training.packing import first_fit

VOCABULARY, DIM, HEADS, INNER = 31, 18, 3, 23
POSITIONS = {"sinusoids": None, "learned": None, "rotary": kt.RotaryPosition, "alibi": kt.AlibiPosition}


def random_rows(count, low, high, seed):
    random = np.random.default_rng(seed)
    return [random.integers(4, VOCABULARY, random.integers(low, high)).tolist() for _ in range(count)]


TARGETS = [[2, *row, 3] for row in random_rows(83, 1, 12, seed=3)]
PAIRS = list(zip(random_rows(83, 1, 17, seed=4), TARGETS, strict=True))


def segments_of(inputs, labels, name="tokens", prefix=""):
    """The (ids, labels) of each segment, row by row; padding and positions are checked on the way."""
    found = []
    rows = zip(inputs[name], inputs[f"{prefix}segment_ids"], inputs[f"{prefix}positions"], labels, strict=True)
    for ids, segments, positions, row_labels in rows:
        np.testing.assert_array_equal(ids != 0, segments != 0)
        assert not positions[segments == 0].any()
        found.append([])
        for segment in range(1, segments.max() + 1):
            where = np.flatnonzero(segments == segment)
            np.testing.assert_array_equal(where, np.arange(where[0], where[-1] + 1))
            np.testing.assert_array_equal(positions[where], np.arange(len(where)))
            found[-1].append((ids[where].tolist(), row_labels[where].tolist()))
    return found


def epoch_of(batches, epoch=0):
    return [batches.batch(epoch * batches.steps_per_epoch + i) for i in range(batches.steps_per_epoch)]


def sequences_of(batches, epoch=0):
    rows = [row for batch in epoch_of(batches, epoch) for row in segments_of(*batch)]
    for ids, labels in (segment for row in rows for segment in row):
        assert ids[1:] == labels[:-1]  # nothing is predicted across segments
    return [[ids + labels[-1:] for ids, labels in row] for row in rows]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sequence_once_an_epoch(shuffle):
    batches = PackedBatches(TARGETS, length=23, batch_size=3, shuffle=shuffle)
    epochs = [sequences_of(batches, epoch) for epoch in (0, 1, 5)]
    for rows in epochs:
        assert sorted(sequence for row in rows for sequence in row) == sorted(TARGETS)
    assert (epochs[0] == epochs[1]) == (not shuffle)
    if shuffle:  # not only rows in another order: other sequences in a row
        assert sorted(epochs[0]) != sorted(epochs[1])
    assert all(labels.shape == (3, 23) for _, labels in epoch_of(batches))


def test_pairs_have_the_segments_of_their_sources():
    batches = PackedBatches(PAIRS, length=(37, 29), batch_size=2, seed=1)
    held = []
    for inputs, labels in epoch_of(batches, 2):
        assert inputs["source"].shape == (2, 37) and labels.shape == (2, 29)
        sources = segments_of(inputs, inputs["source"], "source", "source_")
        targets = segments_of(inputs, labels, "target", "target_")
        for row_sources, row_targets in zip(sources, targets, strict=True):
            for (source, _), (target, label) in zip(row_sources, row_targets, strict=True):
                held.append((source, target + label[-1:]))
    assert sorted(held) == sorted(PAIRS)


def test_first_fit_by_hand():
    lengths = np.array([[5], [4], [3], [2], [6], [1]])
    rows, starts = first_fit(lengths, [7], window=2)
    assert (rows.tolist(), starts[:, 0].tolist()) == ([0, 1, 1, 0, 2, 2], [0, 0, 4, 5, 0, 6])
    lengths = np.array([[5, 1], [1, 5], [1, 2]])  # the third fits with the first on both sides only
    rows, starts = first_fit(lengths, [6, 5], window=4)
    assert (rows.tolist(), starts.tolist()) == ([0, 1, 0], [[0, 0], [0, 0], [5, 1]])


def test_little_padding_and_the_report():
    batches = PackedBatches(TARGETS * 5, length=61, batch_size=1)
    arrays = [inputs["tokens"] for inputs, _ in epoch_of(batches)]
    real, positions = sum(np.count_nonzero(x) for x in arrays), sum(x.size for x in arrays)
    assert batches.num_tokens == real
    assert batches.padding_ratio == pytest.approx(1 - real / positions, abs=1e-12)
    assert batches.padding_ratio < 0.05
    with pytest.warns(UserWarning, match="longer than length=7"):
        short = PackedBatches(TARGETS, length=7, batch_size=2)
    assert short.too_long == sum(len(row) - 1 > 7 for row in TARGETS) > 0


def test_workers_share_an_epoch():
    workers = [PackedBatches(TARGETS, length=23, batch_size=3, shard=(i, 4)) for i in range(4)]
    assert len({worker.steps_per_epoch for worker in workers}) == 1
    assert {labels.shape for worker in workers for _, labels in epoch_of(worker)} == {(3, 23)}
    held = [sequence for worker in workers for row in sequences_of(worker, 1) for sequence in row]
    assert sorted(held) == sorted(TARGETS)


def test_dataset_starts_at_any_step():
    pytest.importorskip("tensorflow")
    batches = PackedBatches(PAIRS, length=41, batch_size=2)
    first = batches.steps_per_epoch + 3
    dataset = batches.dataset(first)
    assert dataset.element_spec[0]["source_segment_ids"].shape.as_list() == [2, 41]
    for step, (inputs, labels) in enumerate(dataset.take(4).as_numpy_iterator(), first):
        expected_inputs, expected_labels = batches.batch(step)
        assert inputs.keys() == expected_inputs.keys()
        np.testing.assert_array_equal(labels, expected_labels)
        for name, values in inputs.items():
            np.testing.assert_array_equal(values, expected_inputs[name], err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": None}, "positive integer as length"),
        ({"length": (7, 7)}, "as length, one"),
        ({"length": 2}, "all 1 examples are longer than length=2"),
        ({"batch_size": 0}, "positive integer as batch_size"),
        ({"window": 0}, "positive integer as window"),
        ({"shard": (3, 3)}, "0 <= index < count"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PackedBatches([[2, 5, 5, 3]], **{"length": 7, "batch_size": 2, **arguments})


def encoding(kind):
    return {"sinusoids": kt.PositionalEncoding, "learned": lambda: kt.LearnedPositionalEncoding(53)}.get(kind)


def language_model(kind):
    """A model of packed rows: tokens, segment ids, positions."""
    tokens, segments, positions = inputs = [keras.Input((None,), dtype="int32") for _ in range(3)]
    embedding, added, position = kt.TokenEmbedding(VOCABULARY, DIM), encoding(kind), POSITIONS[kind]
    x = embedding(tokens) if added is None else added()(embedding(tokens), positions=positions)
    x = kt.DecoderLayer(HEADS, INNER, position=position and position())(x, segment_ids=segments)
    return keras.Model(inputs, embedding(x, reverse=True))


def translation_model(kind):
    """An encoder-decoder of packed rows: (ids, segment ids, positions) of the source, then of the target."""
    inputs = [keras.Input((None,), dtype="int32") for _ in range(6)]
    source, source_segments, source_positions, target, target_segments, target_positions = inputs
    added, position = encoding(kind), POSITIONS[kind]
    embeddings = kt.TokenEmbedding(VOCABULARY, DIM), kt.TokenEmbedding(VOCABULARY, DIM)
    memory, y = embeddings[0](source), embeddings[1](target)
    if added is not None:
        memory, y = added()(memory, positions=source_positions), added()(y, positions=target_positions)
    memory = kt.EncoderLayer(HEADS, INNER, position=position and position())(memory, segment_ids=source_segments)
    layer = kt.DecoderLayer(HEADS, INNER, position=position and position())
    y = layer(y, memory, segment_ids=target_segments, memory_segment_ids=source_segments)
    return keras.Model(inputs, embeddings[1](y, reverse=True))


def loss_and_gradients(model, inputs, labels):
    """The mean loss of all real tokens and its gradient for each weight, on any backend."""
    loss = kt.training.SequenceCrossentropy()
    if keras.backend.backend() == "jax":
        import jax

        def value(weights):
            outputs, _ = model.stateless_call(weights, [x.value for x in model.non_trainable_variables], inputs)
            return loss(labels, outputs)

        return jax.jit(jax.value_and_grad(value))([x.value for x in model.trainable_variables])
    if keras.backend.backend() == "torch":
        import torch

        value = loss(labels, model(inputs))
        return value, list(torch.autograd.grad(value, [x.value for x in model.trainable_variables]))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss(labels, model(inputs))
    gradients = tape.gradient(value, [x.value for x in model.trainable_variables])
    return value, [tf.convert_to_tensor(gradient) for gradient in gradients]


def one_by_one(rows, length):
    """Rows of ids in rows of their own: ids, segment ids and positions as if each row were one segment."""
    ids = keras.utils.pad_sequences(rows, maxlen=length, padding="post")
    return [ids, (ids != 0).astype("int32"), np.where(ids != 0, np.arange(length), 0).astype("int32")]


@pytest.mark.parametrize("kind", POSITIONS)
def test_training_on_packed_rows_is_training_on_the_sequences(kind, assert_close):
    batches = PackedBatches(TARGETS[:23], length=29, batch_size=13)
    assert batches.steps_per_epoch == 1
    inputs, labels = batches.batch(1)
    model = language_model(kind)
    packed = loss_and_gradients(model, [inputs[name] for name in ("tokens", "segment_ids", "positions")], labels)
    alone = one_by_one([row[:-1] for row in TARGETS[:23]], 13)
    answers = keras.utils.pad_sequences([row[1:] for row in TARGETS[:23]], maxlen=13, padding="post")
    assert_close(packed, loss_and_gradients(model, alone, answers))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sinusoids", "rotary"])
def test_training_on_packed_pairs_is_training_on_the_pairs(kind, assert_close):
    batches = PackedBatches(PAIRS[:23], length=(37, 29), batch_size=17)
    assert batches.steps_per_epoch == 1
    inputs, labels = batches.batch(1)
    names = [f"{side}{part}" for side in ("source", "target") for part in ("", "_segment_ids", "_positions")]
    model = translation_model(kind)
    packed = loss_and_gradients(model, [inputs[name] for name in names], labels)
    sources, targets = zip(*PAIRS[:23], strict=True)
    alone = one_by_one(sources, 19) + one_by_one([row[:-1] for row in targets], 13)
    answers = keras.utils.pad_sequences([row[1:] for row in targets], maxlen=13, padding="post")
    assert_close(packed, loss_and_gradients(model, alone, answers))
