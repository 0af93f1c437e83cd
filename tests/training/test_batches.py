"""Length-bucketed batches: every example once an epoch, any step found directly, and what is refused."""

import keras
import numpy as np
import pytest

from keras_transformer.text import ByteTokenizer
from keras_transformer.training import PackedBatches, SequenceCrossentropy, TokenBatches, read_pairs, read_texts

pytestmark = pytest.mark.long  # the code is NumPy and tf.data, the same on every backend

VOCABULARY = 97


def random_pairs(count=211, seed=5, longest=29):
    """Pairs of unequal lengths; the first target id is the example's number, so that each can be told apart."""
    random = np.random.default_rng(seed)
    return [
        (
            random.integers(4, VOCABULARY, random.integers(1, longest)).tolist(),
            [1000 + i, *random.integers(4, VOCABULARY, random.integers(1, longest)), 3],
        )
        for i in range(count)
    ]


PAIRS = random_pairs()


def pairs_of(batch):
    """The pairs that a batch holds, padding taken off."""
    (source, target), labels = batch
    assert source.dtype == target.dtype == labels.dtype == "int32"
    found = []
    for one, other, label in zip(source, target, labels, strict=True):
        n = int((label != 0).sum())
        np.testing.assert_array_equal(other[1:n], label[: max(n - 1, 0)])
        assert not other[n:].any() and not label[n:].any()
        if n:
            found.append(([int(x) for x in one if x], [int(other[0]), *map(int, label[:n])]))
    return found


def epoch_of(batches, epoch=0):
    return [batches.batch(epoch * batches.steps_per_epoch + i) for i in range(batches.steps_per_epoch)]


def same(one, other):
    keras.tree.assert_same_structure(one, other)
    return all(np.array_equal(a, b) for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size", [{"tokens_per_batch": 131}, {"batch_size": 7}, {"batch_size": 1000}])
def test_every_example_once_an_epoch(size, shuffle):
    batches = TokenBatches(PAIRS, **size, shuffle=shuffle)
    for epoch in (0, 3):
        held = [pair for batch in epoch_of(batches, epoch) for pair in pairs_of(batch)]
        assert sorted(held, key=lambda pair: pair[1][0]) == PAIRS


def test_batches_keep_to_the_budget_and_to_few_shapes():
    batches = TokenBatches(PAIRS, tokens_per_batch=131, boundaries=[13, 23, 31, 61])
    assert batches.shapes == [(10, 13), (5, 23), (4, 31)]
    for (source, target), labels in epoch_of(batches):
        assert source.shape == target.shape == labels.shape
        assert source.shape in batches.shapes
        longest = max(np.count_nonzero(source, axis=1).max(), np.count_nonzero(target, axis=1).max())
        assert longest <= source.shape[1]


def test_rows_that_replicas_can_share():
    batches = TokenBatches(PAIRS, tokens_per_batch=131, batch_size_multiple=3, boundaries=[13, 23, 31])
    assert batches.shapes == [(9, 13), (3, 23), (3, 31)]
    held = [pair for batch in epoch_of(batches) for pair in pairs_of(batch)]
    assert sorted(held, key=lambda pair: pair[1][0]) == PAIRS


def test_report_counts_what_the_batches_hold():
    batches = TokenBatches(PAIRS, tokens_per_batch=131)
    arrays = [array for inputs, _ in epoch_of(batches) for array in inputs]
    real, positions = sum(np.count_nonzero(x) for x in arrays), sum(x.size for x in arrays)
    assert batches.num_tokens == real == sum(len(source) + len(target) - 1 for source, target in PAIRS)
    assert batches.padding_ratio == pytest.approx(1 - real / positions, abs=1e-12)
    plain = 1 - real / (2 * len(PAIRS) * 29)
    assert batches.padding_ratio < 0.7 * plain


def test_order_is_a_function_of_seed_and_epoch():
    first, again, other = (TokenBatches(PAIRS, tokens_per_batch=131, seed=seed) for seed in (7, 7, 8))
    again.batch(5 * again.steps_per_epoch)  # asking for a later epoch first changes nothing
    for step in (0, 3, first.steps_per_epoch, 2 * first.steps_per_epoch + 1):
        assert same(first.batch(step), again.batch(step))
    assert not all(same(a, b) for a, b in zip(epoch_of(first), epoch_of(other), strict=True))
    assert not all(same(a, b) for a, b in zip(epoch_of(first), epoch_of(first, 1), strict=True))
    kept = TokenBatches(PAIRS, tokens_per_batch=131, shuffle=False)
    assert all(same(a, b) for a, b in zip(epoch_of(kept), epoch_of(kept, 1), strict=True))


@pytest.mark.parametrize("count", [2, 3])
def test_workers_share_an_epoch_in_batches_of_equal_shapes(count):
    workers = [TokenBatches(PAIRS, tokens_per_batch=131, shard=(i, count)) for i in range(count)]
    assert len({worker.steps_per_epoch for worker in workers}) == 1
    assert len({worker.padding_ratio for worker in workers}) == 1
    held, positions = [], 0
    for step in range(workers[0].steps_per_epoch):
        parts = [worker.batch(step) for worker in workers]
        assert len({labels.shape for _, labels in parts}) == 1
        rows = [len(pairs_of(part)) for part in parts]
        assert max(rows) - min(rows) <= 1
        held += [pair for part in parts for pair in pairs_of(part)]
        positions += sum(2 * labels.size for _, labels in parts)
    assert sorted(held, key=lambda pair: pair[1][0]) == PAIRS
    assert workers[0].padding_ratio == pytest.approx(1 - workers[0].num_tokens / positions, abs=1e-12)


def test_more_workers_than_examples():
    workers = [TokenBatches(PAIRS[:2], batch_size=5, shard=(i, 3)) for i in range(3)]
    assert sorted(len(pairs_of(worker.batch(worker.steps_per_epoch - 1))) for worker in workers) == [0, 1, 1]


def test_single_sequences_and_max_length():
    sequences = [target for _, target in PAIRS]
    with pytest.warns(UserWarning, match="leaves out .* of 211 examples"):
        batches = TokenBatches(sequences, tokens_per_batch=64, max_length=13)
    fitting = [sequence for sequence in sequences if len(sequence) - 1 <= 13]
    assert (batches.num_examples, batches.too_long) == (len(fitting), len(sequences) - len(fitting))
    held = []
    for inputs, labels in epoch_of(batches):
        held += [[int(x[0]), *map(int, y[y != 0])] for x, y in zip(inputs, labels, strict=True) if y.any()]
    assert sorted(held) == sorted(fitting)


def test_dataset_starts_at_any_step_and_ends_after_epochs():
    tf = pytest.importorskip("tensorflow")
    batches = TokenBatches(PAIRS, tokens_per_batch=131, seed=3)
    steps = batches.steps_per_epoch
    whole = list(batches.dataset(epochs=2).as_numpy_iterator())
    assert len(whole) == 2 * steps
    assert all(same(batch, batches.batch(i)) for i, batch in enumerate(whole))
    first = steps + 2
    rest = list(batches.dataset(first, epochs=2).as_numpy_iterator())
    assert len(rest) == steps - 2
    assert all(same(a, b) for a, b in zip(rest, whole[first:], strict=True))
    endless = batches.dataset(first)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    assert all(same(a, b) for a, b in zip(endless.take(3).as_numpy_iterator(), whole[first:], strict=False))
    assert batches.dataset().element_spec[1].shape.as_list() == [None, None]
    for arguments in ({"first_step": -1}, {"first_step": steps, "epochs": 1}):
        with pytest.raises(ValueError, match="an integer of at least 0|takes a first_step below"):
            batches.dataset(**arguments)


def test_training_continues_exactly():
    pytest.importorskip("tensorflow")
    sequences = [[2, *target[1:]] for _, target in PAIRS]
    batches = TokenBatches(sequences, batch_size=31, boundaries=[32], vocabulary_size=VOCABULARY)

    def make_model():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.layers.Embedding(VOCABULARY, 5), keras.layers.Dense(VOCABULARY)])
        model.compile(keras.optimizers.SGD(0.5), SequenceCrossentropy())
        return model

    def fit(model, first, last):
        model.fit(
            batches.dataset(first * batches.steps_per_epoch),
            steps_per_epoch=batches.steps_per_epoch,
            initial_epoch=first,
            epochs=last,
            verbose=0,
        )

    whole, parts = make_model(), make_model()
    fit(whole, 0, 3)
    fit(parts, 0, 1)
    fit(parts, 1, 3)
    for expected, weights in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)
    assert whole.evaluate(batches.dataset(epochs=1), verbose=0) > 0  # a finite dataset needs no number of steps


def test_texts_become_ids_as_they_are_read(tmp_path):
    pytest.importorskip("tensorflow")
    (tmp_path / "source.txt").write_bytes("ein Hund\r\nzwei Bäume\r\n\r\n개\r\n".encode())
    (tmp_path / "target.txt").write_text("a dog\ntwo trees\n\na dog\n", encoding="utf-8")
    pairs = read_pairs(tmp_path / "source.txt", tmp_path / "target.txt")
    assert list(pairs) == [("ein Hund", "a dog"), ("zwei Bäume", "two trees"), ("개", "a dog")]
    assert pairs[1:] == list(pairs)[1:] and pairs.empty == 1
    tokenizers = (ByteTokenizer(add_end=True), ByteTokenizer(add_start=True, add_end=True))
    batches = TokenBatches(pairs, batch_size=3, boundaries=[16], tokenizers=tokenizers, shuffle=False)
    (source, decoder_input), labels = next(iter(batches.dataset()))
    assert tokenizers[0].detokenize(source).numpy().tolist() == [text.encode() for text, _ in pairs]
    assert tokenizers[1].detokenize(labels).numpy().tolist() == [text.encode() for _, text in pairs]
    assert decoder_input[:, 0].numpy().tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="add_start=False"):
        TokenBatches(pairs, batch_size=3, tokenizers=ByteTokenizer(add_end=True))
    cuts = ByteTokenizer(max_length=7, add_start=True, add_end=True)
    with pytest.raises(ValueError, match="max_length=7 and would cut longer texts"):
        TokenBatches(pairs, batch_size=3, tokenizers=(tokenizers[0], cuts))


def test_a_batch_size_that_is_no_multiple():
    with pytest.raises(ValueError, match="batch_size_multiple divides.*batch_size=30, batch_size_multiple=8"):
        TokenBatches([[2, 3]], batch_size=30, batch_size_multiple=8)


def test_columns_of_a_file(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"\xef\xbb\xbf1\tone\tuno\n2\ttwo\tdos\n3\t \ttres")
    assert list(read_pairs(path, columns=(2, 1))) == [("uno", "one"), ("dos", "two")]
    assert read_pairs(path, columns=(2, 1)).empty == 1
    assert list(read_pairs(path)) == [("1", "one"), ("2", "two")]
    assert list(read_texts(path, column=2)) == ["uno", "dos", "tres"]
    assert read_texts(path)[0] == "1\tone\tuno"
    with pytest.raises(IndexError):
        read_texts(path)[3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "pairs.tsv is empty"),
        (b"a\tb\nc\xff\td\n", r"pairs.tsv, line 2: not UTF-8"),
        (b"a\tb\nc d\n", r"pairs.tsv, line 2: there is no column 1"),
        ("a\tb\nc\td\n".encode("utf-16"), "pairs.tsv, line 1: not UTF-8, but by its bytes UTF-16"),
        ("a\tb\nc\td\n".encode("utf-16-le"), "pairs.tsv, line 1: not UTF-8, but by its bytes UTF-16"),
        ("개\tb\n".encode("utf-16-be"), "pairs.tsv, line 1: not UTF-8"),
        ("a\tb\n".encode("utf-32"), "pairs.tsv, line 1: not UTF-8"),
        (b"a\tb\nc\td\re\tf\n", "pairs.tsv, line 2: a carriage return within the line"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(path)


def test_line_ends_and_byte_order_marks_are_no_text(tmp_path):
    """Of any system, and of a file that was put together of several."""
    for name, content in {
        "unix": "a dog\ntwo cats\n\n",
        "windows": "a dog\r\ntwo cats\r\n \r\n",
        "mac": "a dog\rtwo cats\r\r",
        "joined": "\ufeffa dog\n\ufefftwo cats\n\ufeff",
        "joined without a line end": "a dog\ntwo \ufeffcats",
    }.items():
        (tmp_path / name).write_bytes(content.encode())
        texts = read_texts(tmp_path / name)
        assert list(texts) == ["a dog", "two cats"], name
        assert texts.empty == ("without" not in name)


@pytest.mark.parametrize("seed", [None, -1, 1.5, True, "1"])
def test_a_seed_that_gives_no_order_again(seed):
    for batches, size in ((TokenBatches, {}), (PackedBatches, {"length": 7})):
        for shuffle in (True, False):
            with pytest.raises(ValueError, match=f"{batches.__name__} takes an integer of at least 0 as seed"):
                batches([[2, 5, 3]], batch_size=2, **size, seed=seed, shuffle=shuffle)


def test_unequal_numbers_of_lines_and_wrong_columns(tmp_path):
    for name, text in (("a", "1\n2\n"), ("b", "1\n2\n3")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="a has 2 lines and .*b has 3"):
        read_pairs(tmp_path / "a", tmp_path / "b")
    for columns in ((0, -1), (0, 1.0)):
        with pytest.raises(ValueError, match="numbers of columns"):
            read_pairs(tmp_path / "a", columns=columns)
    with pytest.raises(ValueError, match="two columns"):
        read_pairs(tmp_path / "a", columns=(0,))


@pytest.mark.parametrize(
    ("examples", "arguments", "message"),
    [
        ([], {}, "no examples"),
        (iter([]), {}, "into a list"),
        ([3, 4], {}, "rows of ids"),
        ([([5], [2, 3]), ([5], [2])], {}, "example 1: the target has fewer than 2 ids"),
        ([([], [2, 3])], {}, "example 0: the source has fewer than 1 ids"),
        ([[2, 3], [2]], {}, "example 1: it has fewer than 2 ids"),
        ([[2, 3], [2, 0, 3]], {}, "example 1: it holds the id 0, which is padding"),
        ([[2, 3], [2, -4, 3]], {}, "example 1: it holds a negative id"),
        ([[2, 3], [2, 11]], {"vocabulary_size": 11}, "example 1: it holds an id outside of the vocabulary of 11"),
        ([([7], [2, 3]), ([7], [7, 3])], {"vocabulary_size": (11, 7)}, "example 1: the target holds an id outside"),
        ([[2, 3]], {"vocabulary_size": (11, 7)}, "as vocabulary_size, one"),
        ([([7], [2, 3]), ([7], [2, 3], [2])], {}, "example 1 has 3 parts"),
        ([[2, 3], [2.5, 3]], {}, "integer ids; example 1"),
        ([[2, 3], ([5], [2, 3])], {}, "example 1 is of shape .* or all are pairs"),
        ([([5], [2, 3]), [2, 3]], {}, "example 1 is of shape .* or all are pairs"),
        (["a text"], {}, "Give `tokenizers`"),
        ([("a", "b")], {}, "Give `tokenizers`"),
        ([[2, 5, 5, 3]], {"max_length": 2}, "all 1 examples are longer than max_length=2"),
        ([[2, 3]], {"max_length": 0}, "positive integer as max_length"),
        ([[2, 3]], {"batch_size": 7}, "either tokens_per_batch or batch_size"),
        ([[2, 3]], {"tokens_per_batch": None}, "either tokens_per_batch or batch_size"),
        ([[2, 3]], {"tokens_per_batch": 1.5}, "positive integer as tokens_per_batch"),
        ([[2] * 48], {}, "tokens_per_batch=47 has no room for 1 x the longest sequence, of 47"),
        ([[2] * 24], {"batch_size_multiple": 2}, "no room for 2 x the longest sequence, of 23 positions, padded to 28"),
        ([[2, 3]], {"batch_size_multiple": 0}, "positive integer as batch_size_multiple"),
        ([[2, 2**32 + 5, 3]], {}, "example 0: it holds an id that int32 cannot hold"),
        ([[2] * 12], {"boundaries": [4, 10]}, "boundaries end at 10, the longest sequence has 11"),
        ([[2] * 12], {"boundaries": [16, 8]}, "boundaries that increase"),
        ([[2] * 12], {"boundaries": []}, "boundaries that increase"),
        ([[2, 3]], {"shard": (2, 2)}, r"0 <= index < count. Received: \(2, 2\)"),
        ([[2, 3]], {"shard": (-1, 2)}, "0 <= index < count"),
        ([[2, 3]], {"shard": 1}, "0 <= index < count"),
    ],
)
def test_what_is_refused(examples, arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenBatches(examples, **{"tokens_per_batch": 47, **arguments})
