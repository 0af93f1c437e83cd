"""The in-graph tokenizer gives what the sentencepiece package gives, and goes wherever the model goes."""

import io
import random

import keras
import numpy as np
import pytest

from keras_transformer.text import SentencePieceTokenizer

sentencepiece = pytest.importorskip("sentencepiece")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")

TEXTS = {
    "English": ["The quick brown fox jumps over the lazy dog.", "A transformer attends to 12 of 345 words."],
    "Korean": ["다람쥐 헌 쳇바퀴에 타고파.", "오늘은 2024년 1월 12일 금요일입니다."],
    "Japanese": ["いろはにほへと ちりぬるを。", "今日は２０２４年１月１２日、ｶﾀｶﾅも書く。"],
    "Arabic": ["نص حكيم له سر قاطع وذو شأن عظيم", "اليوم ١٢ يناير ٢٠٢٤، الجمعة"],
    "Hindi": ["ऋषियों को सताने वाले दुष्ट राक्षसों", "आज १२ जनवरी २०२४ है।"],
    "emoji": ["party 🎉 time 👍🏽 ❤️ 😀😀", "family 👩‍👩‍👧 flag 🇰🇷 ok"],
    "compatibility": ["ﬁne ﬂow ① ㎏ Å e\u0301 é", "ＦＵＬＬ　ｗｉｄｔｈ no\u00a0break zero\u200bwidth"],
}
EVERY_TEXT = [text for texts in TEXTS.values() for text in texts]
WORDS = " ".join(EVERY_TEXT).split()
# The beginnings of the words occur often enough to become pieces longer than a character.
TRAINING_TEXTS = EVERY_TEXT + [word[:length] for word in WORDS for length in range(2, len(word))]
UNSEEN = [
    "",
    " ",
    "  two  spaces ",
    "tab\tand\nline",
    "漢字☃ß",
    "<s> hi </s> <pad>",
    "▁",
    "a\x00b",
    "x" * 301,
]


def train_model(**options):
    """Model bytes straight from the sentencepiece package."""
    model = io.BytesIO()
    options = {"model_type": "unigram", "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING_TEXTS),
        model_writer=model,
        vocab_size=500,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def oracle_of(tokenizer):
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)


def unpadded(ids):
    return [[int(id) for id in row if id != 0] for row in np.asarray(ids)]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TRAINING_TEXTS, 211, character_coverage=1.0, split_digits=True)


def test_importing_the_module_does_not_import_tensorflow(fresh_process):
    fresh_process(
        """
        import sys
        import keras_transformer.text
        found = {"tensorflow", "tensorflow_text", "sentencepiece"} & set(sys.modules)
        assert not found, found
        """,
        KERAS_BACKEND="jax",
    )


@pytest.mark.parametrize("language", TEXTS)
def test_ids_and_texts_equal_the_sentencepiece_package(tokenizer, language):
    oracle = oracle_of(tokenizer)
    ids = tokenizer(TEXTS[language])
    assert unpadded(ids) == oracle.encode(TEXTS[language])
    texts = [text.decode() for text in tokenizer.detokenize(ids).numpy()]
    assert texts == oracle.decode(oracle.encode(TEXTS[language]))


@pytest.mark.parametrize("normalization", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_random_strings_equal_the_sentencepiece_package(normalization):
    tokenizer = SentencePieceTokenizer(train_model(normalization_rule_name=normalization))
    oracle = oracle_of(tokenizer)
    randomness = random.Random(7)
    characters = sorted(set("".join(EVERY_TEXT))) + list("漢☃Zß\u0301\u200d\u200f\u3000@")
    texts = ["".join(randomness.choices(characters, k=randomness.randrange(23))) for _ in range(307)] + UNSEEN
    expected = oracle.encode(texts)
    assert unpadded(tokenizer(texts)) == expected
    round_trip = tokenizer.detokenize(tokenizer(texts))
    assert [text.decode() for text in round_trip.numpy()] == oracle.decode(expected)


def test_any_row_of_ids_reads_as_in_the_sentencepiece_package(tokenizer):
    """A model may generate what no text gives; only the space before a leading unknown is left out."""
    randomness = random.Random(13)
    pieces = [1, *range(4, tokenizer.vocabulary_size)]
    rows = [randomness.choices(pieces, k=11) for _ in range(307)]
    texts = [text.decode() for text in tokenizer.detokenize(rows).numpy()]
    expected = oracle_of(tokenizer).decode(rows)
    assert texts == [text[1:] if row[0] == 1 else text for row, text in zip(rows, expected, strict=True)]


def test_symbols_of_the_user_equal_the_sentencepiece_package():
    model = train_model(user_defined_symbols=["<sep>"], control_symbols=["<mask>"])
    tokenizer = SentencePieceTokenizer(model)
    texts = ["one<sep>two", "<sep> <mask> fox"]
    assert unpadded(tokenizer(texts)) == oracle_of(tokenizer).encode(texts)
    mask = tokenizer.get_vocabulary().index("<mask>")
    fox = unpadded(tokenizer(["fox"]))[0]
    assert tokenizer.detokenize([[mask, *fox, mask]]).numpy()[0] == b"fox"


def test_padding_start_and_end(tokenizer):
    short, long = oracle_of(tokenizer).encode(["fox", "the lazy dog"])
    framed = SentencePieceTokenizer(tokenizer.model, add_start=True, add_end=True)
    ids = framed(["fox", "the lazy dog", ""]).numpy()
    assert ids.dtype == np.int32
    width = len(long) + 2
    expected = [[2, *short, 3], [2, *long, 3], [2, 3]]
    np.testing.assert_array_equal(ids, [row + [0] * (width - len(row)) for row in expected])
    assert (framed.pad_id, framed.unk_id, framed.start_id, framed.end_id) == (0, 1, 2, 3)


@pytest.mark.parametrize("add_start", [False, True])
@pytest.mark.parametrize("add_end", [False, True])
def test_truncation_keeps_the_end(tokenizer, add_start, add_end):
    pieces = oracle_of(tokenizer).encode(EVERY_TEXT[0])
    cut = SentencePieceTokenizer(tokenizer.model, max_length=7, add_start=add_start, add_end=add_end)
    expected = [2] * add_start + pieces[: 7 - add_start - add_end] + [3] * add_end
    np.testing.assert_array_equal(cut([EVERY_TEXT[0]]), [expected])
    assert cut([""]).shape == (1, add_start + add_end)


def test_lists_arrays_and_tensors_are_the_same(tokenizer):
    expected = tokenizer(tf.constant(EVERY_TEXT)).numpy()
    for strings in (EVERY_TEXT, tuple(EVERY_TEXT), np.array(EVERY_TEXT), np.array(EVERY_TEXT, dtype=object)):
        np.testing.assert_array_equal(tokenizer(strings), expected)
        np.testing.assert_array_equal(tokenizer.tokenize(strings), expected)
    assert tokenizer([]).shape == (0, 0)


def test_detokenize_stops_at_end_or_padding_and_drops_start(tokenizer):
    fox, dog = oracle_of(tokenizer).encode(["fox", "dog"])
    size = tokenizer.vocabulary_size
    rows = {
        (2, *fox, 3, *dog): "fox",
        (2, *fox, 0, *dog): "fox",
        (*fox, 2, *dog): "fox dog",
        (3, *dog): "",
        (0, *dog): "",
        (*fox, 1): "fox \u2047 ",
        (*fox, size): "fox \u2047 ",
        (-5, *fox): "\u2047  fox",
    }
    expected = list(rows.values())
    width = max(map(len, rows))
    ids = np.array([row + (0,) * (width - len(row)) for row in rows])
    assert [text.decode() for text in tokenizer.detokenize(ids).numpy()] == expected
    beams = tokenizer.detokenize(ids.reshape(2, 4, width))  # (B, N, T)
    assert [text.decode() for text in beams.numpy().reshape(-1)] == expected
    assert tokenizer.detokenize(ids[0]).numpy() == b"fox"
    assert tokenizer.detokenize(np.zeros((2, 3, 0), "int64")).numpy().tolist() == [[b""] * 3] * 2


def test_in_a_dataset_and_in_a_function_of_any_shape(tokenizer):
    oracle = oracle_of(tokenizer)
    batches = tf.data.Dataset.from_tensor_slices(EVERY_TEXT).batch(5).map(tokenizer)
    assert [row for ids in batches for row in unpadded(ids)] == oracle.encode(EVERY_TEXT)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string)])
    def there_and_back(strings):
        ids = tokenizer(strings)
        return tokenizer.detokenize(ids)

    for count in (1, 3):
        texts = [text.decode() for text in there_and_back(tf.constant(EVERY_TEXT[:count])).numpy()]
        assert texts == oracle.decode(oracle.encode(EVERY_TEXT[:count]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        there_and_back(tf.constant([["two", "ranks"]]))


@pytest.mark.tensorflow
def test_functional_model_survives_a_keras_file_in_a_fresh_process(tokenizer, tmp_path, fresh_process):
    strings = keras.Input((), dtype="string")
    ids = SentencePieceTokenizer(tokenizer.model, max_length=11, add_end=True)(strings)
    assert ids.shape == (None, None) and ids.dtype == "int32"
    model = keras.Model(strings, keras.layers.Embedding(tokenizer.vocabulary_size, 5)(ids))
    expected = model(tf.constant(EVERY_TEXT))
    batches = tf.data.Dataset.from_tensor_slices(EVERY_TEXT).batch(len(EVERY_TEXT))
    np.testing.assert_allclose(model.predict(batches, verbose=0), expected, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "strings.npy", np.array(EVERY_TEXT))
    fresh_process(
        """
        import keras
        import numpy as np
        import tensorflow as tf
        import keras_transformer.text
        model = keras.saving.load_model("model.keras")
        strings = np.load("strings.npy")
        tokenizer = model.layers[1]
        vectors = model(tf.constant(strings))
        np.savez("out.npz", ids=tokenizer(strings), vectors=vectors, max_length=tokenizer.max_length)
        """,
        cwd=tmp_path,
    )
    results = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(results["ids"], model.layers[1](EVERY_TEXT))
    np.testing.assert_allclose(results["vectors"], expected, rtol=1e-6)
    assert results["max_length"] == 11


@pytest.mark.tensorflow
def test_saved_model_takes_and_gives_strings_in_a_process_without_keras(tokenizer, tmp_path, fresh_process):
    archive = keras.export.ExportArchive()
    archive.track(tokenizer)
    text = tf.TensorSpec([None], tf.string, name="text")
    archive.add_endpoint("tokenize", lambda text: {"ids": tokenizer(text)}, [text])
    ids = tf.TensorSpec([None, None, None], tf.int32, name="ids")
    archive.add_endpoint("detokenize", lambda ids: {"text": tokenizer.detokenize(ids)}, [ids])
    archive.write_out(tmp_path / "tokenizer", verbose=False)
    np.save(tmp_path / "strings.npy", np.array(EVERY_TEXT))
    fresh_process(
        """
        import sys
        import numpy as np
        import tensorflow as tf
        import tensorflow_text
        signatures = tf.saved_model.load("tokenizer").signatures
        ids = signatures["tokenize"](text=tf.constant(np.load("strings.npy")))["ids"]
        text = signatures["detokenize"](ids=ids[:, None])["text"]
        np.savez("out.npz", ids=ids, text=np.char.decode(text.numpy().astype("S"), "utf-8"))
        assert "keras_transformer" not in sys.modules
        """,
        cwd=tmp_path,
    )
    results = np.load(tmp_path / "out.npz")
    oracle = oracle_of(tokenizer)
    assert unpadded(results["ids"]) == oracle.encode(EVERY_TEXT)
    assert results["text"].tolist() == [[text] for text in oracle.decode(oracle.encode(EVERY_TEXT))]


def test_configuration_and_file_give_the_same_tokenizer(tokenizer, tmp_path):
    options = {"max_length": 13, "add_start": True, "add_end": True, "name": "subwords"}
    original = SentencePieceTokenizer(tokenizer.model, **options)
    copy = SentencePieceTokenizer.from_config(original.get_config())
    assert copy.get_config() == original.get_config()
    np.testing.assert_array_equal(copy(EVERY_TEXT), original(EVERY_TEXT))
    path = tmp_path / "subwords.model"
    path.write_bytes(tokenizer.model)
    np.testing.assert_array_equal(SentencePieceTokenizer(str(path))(EVERY_TEXT), tokenizer(EVERY_TEXT))


def test_training_is_deterministic_and_reads_files(tokenizer, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TRAINING_TEXTS), encoding="utf-8")
    again = SentencePieceTokenizer.train([path], 211, character_coverage=1.0, split_digits=True)
    assert again.model == tokenizer.model
    assert list(tmp_path.iterdir()) == [path]
    assert tokenizer.vocabulary_size == len(tokenizer.get_vocabulary()) == 211
    assert tokenizer.get_vocabulary()[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    digits = [tokenizer.get_vocabulary()[id] for id in unpadded(tokenizer(["2024"]))[0]]
    assert [piece.lstrip("▁") for piece in digits if piece != "▁"] == ["2", "0", "2", "4"]


def test_long_texts_are_not_skipped_in_training():
    tokenizer = SentencePieceTokenizer.train(["ab " * 5003, "cd"], 9, character_coverage=1.0)
    assert {"a", "b"} <= set("".join(tokenizer.get_vocabulary()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe"}, "unigram models only.*BPE"),
        ({"model_type": "char"}, "unigram models only.*CHAR"),
        ({"model_type": "word"}, "unigram models only.*WORD"),
        ({"byte_fallback": True}, "byte_fallback=True"),
        ({"add_dummy_prefix": False}, "add_dummy_prefix=False"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix=True"),
        ({"unk_surface": "?"}, "unk_surface"),
        ({"normalization_rule_name": "identity"}, "tabs and line ends.*'identity'"),
        ({"normalization_rule_name": "nfkc"}, "tabs and line ends.*'nfkc'"),
        ({"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}, r"\(0, 1, 2, 3\).*\(-1, 0, 1, 2\)"),
    ],
)
def test_models_that_the_graph_would_run_wrongly_are_refused(options, message):
    model = train_model(**options)
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer(model)


def test_corrupt_models_are_refused(tokenizer):
    for model in (b"", b"garbage", tokenizer.model[:1009], tokenizer.model[:-53]):
        with pytest.raises(ValueError, match="not a SentencePiece model"):
            SentencePieceTokenizer(model)


def test_training_says_which_vocabulary_sizes_the_texts_allow():
    texts = ["the cat sat", "the dog sat"]
    with pytest.raises(ValueError, match="too large.*at most") as error:
        SentencePieceTokenizer.train(texts, 1009)
    largest = int(str(error.value).rstrip(".").split()[-1])
    assert SentencePieceTokenizer.train(texts, largest).vocabulary_size == largest
    with pytest.raises(ValueError, match="at least") as error:
        SentencePieceTokenizer.train(texts, 5)
    smallest = int(str(error.value).split("at least ")[1].split(",")[0])
    assert SentencePieceTokenizer.train(texts, smallest).vocabulary_size == smallest
    for texts in ([], ["", "  "]):
        with pytest.raises(ValueError, match="empty"):
            SentencePieceTokenizer.train(texts, 11)
    for texts in ("one string", [b"bytes"]):
        with pytest.raises(ValueError, match="takes"):
            SentencePieceTokenizer.train(texts, 11)


def test_wrong_ranks_and_dtypes_are_refused(tokenizer):
    for strings in (
        "no batch",
        [["two", "ranks"]],
        [1, 2],
        np.zeros((3,)),
        keras.Input((1,), dtype="string"),
    ):
        with pytest.raises(ValueError, match=r"strings of shape \(B,\)"):
            tokenizer(strings)
    for ids in (5, np.zeros((2, 3)), ["text"]):
        with pytest.raises(ValueError, match="integer ids of shape"):
            tokenizer.detokenize(ids)
    with pytest.raises(ValueError, match="max_length=2 leaves no room"):
        SentencePieceTokenizer(tokenizer.model, max_length=2, add_start=True, add_end=True)
