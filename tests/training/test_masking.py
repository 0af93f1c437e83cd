"""Masked tokens: how many, whole words, nothing else changed, the same for a step, what counts, what is refused."""

import itertools

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.training import MaskedTokens, PackedBatches, SequenceCrossentropy, TokenBatches

pytestmark = pytest.mark.long  # the code is NumPy and tf.data, the same on every backend

MASK = "<mask>"


class Pieces(kt.text.Tokenizer):
    """Ids only: the first 13 pieces begin words, the next 17 continue them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def get_vocabulary(self):
        return [
            "<pad>",
            "<unk>",
            "<s>",
            "</s>",
            *(f"_{i}" for i in range(13)),
            *map(str, range(17)),
            *self.special_tokens,
        ]

    def begins_word(self):
        return np.array([piece.startswith("_") for piece in self.get_vocabulary()])


TOKENIZER = Pieces(special_tokens=[MASK, "<task>"])
SPECIAL = {0, 1, 2, 3, 34, 35}


def sequences(count=211, seed=3):
    random = np.random.default_rng(seed)
    return [
        [2, *random.integers(4, 34, random.integers(1, 23)), 1, 35, *random.integers(4, 34, 3), 3] for _ in range(count)
    ]


ROWS = sequences()
BARE = [[id for id in row if id not in SPECIAL] for row in ROWS]  # many begin with a piece that continues a word


def batches(kind="bucketed", rows=ROWS, **options):
    if kind == "packed":
        return PackedBatches(rows, length=61, batch_size=5, shift=False, **options)
    return TokenBatches(rows, tokens_per_batch=331, shift=False, **options)


def words_of(tokens, segments):
    """The places of each word of a row, by going through it: special tokens and padding are none."""
    words = []
    for place, id in enumerate(tokens):
        before = 0 if place == 0 or segments[place - 1] != segments[place] else tokens[place - 1]
        if id in SPECIAL - {1}:
            continue
        if 4 <= id < 17 or before in SPECIAL - {1} or not words:
            words.append([])
        words[-1].append(place)
    return words


def parts(batch):
    inputs, labels = batch
    if isinstance(inputs, dict):
        return inputs["tokens"], inputs["segment_ids"], labels
    return inputs, np.ones_like(inputs), labels


@pytest.mark.parametrize(
    ("kind", "ignore_id", "rows"), [("bucketed", 0, ROWS), ("packed", -100, ROWS), ("packed", 0, BARE)]
)
def test_words_are_chosen_and_nothing_else_is_changed(kind, ignore_id, rows):
    plain = batches(kind, rows, ignore_id=ignore_id)
    masked = MaskedTokens(plain, TOKENIZER, mask_selection_rate=0.4)
    assert masked.mask_id == 34 and masked.steps_per_epoch == plain.steps_per_epoch
    inside = apart = 0
    for step in range(masked.steps_per_epoch + 2):
        tokens, segments, whole = parts(plain.batch(step))
        hidden, same_segments, labels = parts(masked.batch(step))
        assert hidden.dtype == labels.dtype == "int32"
        np.testing.assert_array_equal(whole, np.where(segments * tokens == 0, ignore_id, tokens))
        np.testing.assert_array_equal(segments, same_segments)
        chosen = labels != ignore_id
        np.testing.assert_array_equal(labels[chosen], tokens[chosen])
        np.testing.assert_array_equal(hidden[~chosen], tokens[~chosen])
        assert not np.isin(tokens[chosen], list(SPECIAL)).any()
        assert not np.isin(hidden[chosen], list(SPECIAL - {34})).any()
        for row, row_segments, row_chosen in zip(tokens, segments, chosen, strict=True):
            words = words_of(row, row_segments)
            for word in words:
                text = [place for place in word if row[place] != 1]
                assert len(set(row_chosen[text])) <= 1
                inside += len(text) > 1 and row_chosen[text].all()
            for one, other in itertools.pairwise(words):  # only a new segment parts a piece from one that continues it
                if other[0] == one[-1] + 1 and row[other[0]] >= 17:
                    apart += row_chosen[one[0]] != row_chosen[other[0]]
    assert inside > 100 and (apart > 10) == (rows is BARE)


def test_rates():
    rows = [[2, *row, 3] for row in np.random.default_rng(5).integers(4, 34, (997, 101))]
    plain = batches(rows=rows)
    masked = MaskedTokens(plain, TOKENIZER)
    counts = np.zeros(5)  # tokens, chosen, masked, unchanged, of those that are replaced the smallest third
    for step in range(masked.steps_per_epoch):
        tokens, _, _ = parts(plain.batch(step))
        hidden, _, labels = parts(masked.batch(step))
        chosen = labels != 0
        new = hidden[chosen & (hidden != 34) & (hidden != tokens)]
        counts += (
            (tokens > 3).sum(),
            chosen.sum(),
            (hidden == 34).sum(),
            (chosen & (hidden == tokens)).sum(),
            (new < 14).sum(),
        )
    total, chosen, mask, same, small = counts
    # Words have 2.3 tokens on average, so a share of tokens is as certain as one of 40,000 throws.
    assert total == 997 * 101 and abs(chosen / total - 0.15) < 5 * (0.15 * 0.85 / 40000) ** 0.5
    assert abs(mask / chosen - 0.8) < 5 * (0.8 * 0.2 / chosen) ** 0.5
    expected = 0.1 + 0.1 / 30  # what a random token is by chance
    assert abs(same / chosen - expected) < 5 * (expected / chosen) ** 0.5
    replaced = chosen - mask - same
    assert abs(small / replaced - 1 / 3) < 5 * (0.25 / replaced) ** 0.5


def test_every_token_by_itself():
    masked = MaskedTokens(batches(), TOKENIZER, mask_selection_rate=0.5, whole_words=False)
    single = 0
    for step in range(masked.steps_per_epoch):
        tokens, segments, _ = parts(masked.batches.batch(step))
        chosen = parts(masked.batch(step))[2] != 0
        for row, row_segments, row_chosen in zip(tokens, segments, chosen, strict=True):
            single += sum(len(set(row_chosen[word])) == 2 for word in words_of(row, row_segments))
    assert single > 100


def test_a_function_of_seed_and_step():
    def labels(step, **options):
        return MaskedTokens(batches(), TOKENIZER, **options).batch(step)[1]

    once = MaskedTokens(batches(), TOKENIZER)
    for step in (7, 0, 7, 2):
        np.testing.assert_array_equal(once.batch(step)[1], labels(step))
    assert not np.array_equal(labels(1), labels(1, seed=1))
    epoch = once.steps_per_epoch
    still = MaskedTokens(batches(shuffle=False), TOKENIZER)
    tokens, _, first = parts(still.batches.batch(0))
    assert np.array_equal(tokens, still.batches.batch(epoch)[0]) and first.any()
    assert not np.array_equal(still.batch(0)[1], still.batch(epoch)[1])  # each epoch hides others
    workers = [MaskedTokens(batches(rows=ROWS[:1] * 64, shard=(i, 2)), TOKENIZER).batch(0)[1] for i in range(2)]
    assert not np.array_equal(*workers)


def small_model(packed=False):
    keras.utils.set_random_seed(5)
    names = ["tokens", "segment_ids", "positions"][: 3 if packed else 1]
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    embedding = kt.TokenEmbedding(36, 8)
    x = kt.EncoderLayer(2, 8, position=kt.RotaryPosition())(
        embedding(inputs["tokens"]), segment_ids=inputs.get("segment_ids")
    )
    model = keras.Model(inputs if packed else inputs["tokens"], embedding(x, reverse=True))
    model.compile(keras.optimizers.SGD(0.5), SequenceCrossentropy())
    return model


def test_training_that_goes_on_is_the_same():
    masked = MaskedTokens(batches(rows=ROWS[:67]), TOKENIZER)
    whole, parted = small_model(), small_model()
    whole.fit(masked, epochs=2, verbose=0)
    parted.fit(masked, steps_per_epoch=2, verbose=0)
    with pytest.warns(UserWarning, match="ran out of data"):  # the first epoch has the steps that were left
        parted.fit(masked.from_step(2), epochs=2, verbose=0)
    for one, other in zip(whole.get_weights(), parted.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_packed_in_fit(recwarn):
    masked = MaskedTokens(batches("packed", rows=ROWS[:67]), TOKENIZER)
    model = small_model(packed=True)
    loss = model.evaluate(masked.dataset(epochs=1), verbose=0)
    losses, count = 0.0, 0
    for step in range(masked.steps_per_epoch):
        inputs, labels = masked.batch(step)
        logits = np.asarray(model(inputs), "float64")
        rows, places = np.nonzero(labels)
        z = logits[rows, places]
        one = np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), labels[rows, places]]
        losses, count = losses + one.mean(), count + 1
    np.testing.assert_allclose(loss, losses / count, rtol=1e-5)
    assert not recwarn.list
    with pytest.raises(ValueError, match="no input named positions and none named segment_ids"):
        small_model().fit(masked, verbose=0)


@pytest.mark.parametrize(
    ("tokenizer", "texts", "begins"),
    [
        (
            lambda: kt.text.SentencePieceTokenizer.train(
                ["다시 봐도 좋은 영화", "the cat sat"] * 3, 20, special_tokens=[MASK]
            ),
            ["다시 봐도 좋은 the cat"],
            lambda text: [piece.startswith("\u2581") for piece in text],
        ),
        (
            lambda: kt.text.WordPieceTokenizer(
                ["<pad>", "<unk>", "<s>", "</s>", "walk", "##ed", "##s", "she", "."], special_tokens=[MASK]
            ),
            ["she walked.", "walks"],
            lambda text: [not piece.startswith("##") for piece in text],
        ),
        (
            lambda: kt.text.CharacterTokenizer("abc \n", special_tokens=[MASK]),
            ["ab c\nca"],
            lambda text: [piece in (" ", "\n") for piece in text],
        ),
        (
            lambda: kt.text.ByteTokenizer(special_tokens=[MASK]),
            ["좋은 a\nb"],
            lambda text: [piece in ("<0x20>", "<0x0A>") for piece in text],
        ),
    ],
    ids=["sentencepiece", "wordpiece", "characters", "bytes"],
)
def test_words_of_tokenizers(tokenizer, texts, begins):
    tokenizer = tokenizer()
    vocabulary, found = tokenizer.get_vocabulary(), tokenizer.begins_word()
    assert found.shape == (len(vocabulary),) and found.dtype == bool
    ids = np.asarray(tokenizer.tokenize_ragged(texts).flat_values)
    pieces = [vocabulary[id] for id in ids]
    assert found[ids].tolist() == begins(pieces) and found[ids].any() and not found[ids].all()


def definition(model, **parts):
    return {"added_tokens": [{"id": 0, "content": "<mask>", "special": True, "single_word": False, "lstrip": False,
                              "rstrip": False, "normalized": False}], "model": model, **parts}  # fmt: skip


def bpe(vocabulary, **options):
    ids = {token: i for i, token in enumerate(vocabulary)}
    return {"type": "BPE", "vocab": ids, "merges": [], **options}


def test_words_of_checkpoints():
    tokenizer = kt.text.PretrainedTokenizer
    spaces = tokenizer(definition(bpe(["<mask>", "\u2581", "a", "\u2581b"])), named_tokens={"mask_token": "<mask>"})
    assert spaces.begins_word().tolist() == [False, True, False, True]
    byte = definition(
        bpe(["<mask>", "\u0120a", "a", "\u010a"]),
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    )
    assert tokenizer(byte).begins_word().tolist() == [False, True, False, True]
    pieces = {"[MASK]": 0, "play": 1, "##ing": 2, "[UNK]": 3}
    word = {"type": "WordPiece", "vocab": pieces, "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    bert = tokenizer(
        {"model": {**word, "max_input_chars_per_word": 100}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
        named_tokens={"mask_token": "[MASK]", "unk_token": "[UNK]"},
    )
    assert bert.begins_word().tolist() == [True, True, False, True]
    rows = [[1, 2, 1, 3], [1, 2, 2, 1]]
    masked = MaskedTokens(TokenBatches(rows, batch_size=2, padding_id=None, shift=False), bert, mask_selection_rate=1.0)
    labels = masked.batch(0)[1]
    assert masked.mask_id == 0 and sorted(labels.tolist()) == sorted([[1, 2, 1, -100], [1, 2, 2, 1]])
    ended = tokenizer(definition(bpe(["<mask>", "a</w>"], end_of_word_suffix="</w>")))
    with pytest.raises(ValueError, match="marks where words end, by '</w>'"):
        ended.begins_word()


def test_texts_that_are_one_word_are_told():
    rows = [[2, *range(17, 30), 3]] * 8
    with pytest.warns(UserWarning, match="nearly each of 8 texts is a single word, of 13 tokens"):
        MaskedTokens(batches(rows=rows), TOKENIZER)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedTokens(TokenBatches(ROWS, batch_size=3), TOKENIZER), "made with shift=False"),
        (lambda: MaskedTokens(TokenBatches([(ROWS[0], ROWS[1])], batch_size=3), TOKENIZER), "of single sequences"),
        (lambda: MaskedTokens(batches().dataset(), TOKENIZER), "takes TokenBatches or PackedBatches"),
        (lambda: MaskedTokens(batches(), str.split), "takes a tokenizer of kt.text"),
        (lambda: MaskedTokens(batches(), Pieces()), r"special_tokens=\['<mask>'\]"),
        (lambda: MaskedTokens(batches(), TOKENIZER, mask_token="[M]"), r"has no '\[M\]'"),
        (lambda: MaskedTokens(batches(), TOKENIZER, mask_selection_rate=0.0), "mask_selection_rate above 0"),
        (lambda: MaskedTokens(batches(), TOKENIZER, mask_selection_rate=15), "mask_selection_rate above 0"),
        (lambda: MaskedTokens(batches(), TOKENIZER, random_token_rate=0.3), "whose sum is at most 1"),
        (lambda: MaskedTokens(batches(), TOKENIZER, seed=-1), "integer of at least 0 as seed"),
        (lambda: MaskedTokens(batches(rows=[[4, 77]]), TOKENIZER), "hold the id 77, and the tokenizer has 36"),
        (lambda: TokenBatches([(ROWS[0], ROWS[1])], batch_size=3, shift=False), "shift=False with single sequences"),
        (lambda: batches(rows=[[]]), "has fewer than 1 ids"),
    ],
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
