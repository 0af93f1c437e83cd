"""What holds for every kind of tokenizer: framing, round trips, files, and what is refused."""

import keras
import numpy as np
import pytest

from keras_transformer.text import CharacterTokenizer, SentencePieceTokenizer, WordPieceTokenizer

tf = pytest.importorskip("tensorflow")

KINDS = ["sentencepiece", "wordpiece", "characters", "bytes"]


def decoded(strings):
    return [text.decode() for text in strings.numpy()]


def remade(tokenizer, **options):
    return type(tokenizer).from_config({**tokenizer.get_config(), **options})


@pytest.fixture(params=KINDS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def test_texts_come_back(tokenizer, languages):
    for language, texts in languages.items():
        ids = tokenizer(texts)
        assert ids.dtype == tf.int32
        assert decoded(tokenizer.detokenize(ids)) == texts, language
        assert not np.any(ids.numpy() == tokenizer.unk_id), language


def test_ids_are_those_of_the_vocabulary(tokenizer, texts):
    ids = tokenizer(texts).numpy()
    assert tokenizer.vocabulary_size == len(tokenizer.get_vocabulary()) == len(set(tokenizer.get_vocabulary()))
    assert tokenizer.get_vocabulary()[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert ids.max() < tokenizer.vocabulary_size
    assert set(ids[ids < 4].tolist()) == {0}
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.start_id, tokenizer.end_id) == (0, 1, 2, 3)


@pytest.mark.parametrize("add_start", [False, True])
@pytest.mark.parametrize("add_end", [False, True])
def test_framing_padding_and_truncation(tokenizer, texts, add_start, add_end):
    plain = [[id for id in row if id] for row in tokenizer([*texts, ""]).numpy().tolist()]
    framed = remade(tokenizer, add_start=add_start, add_end=add_end, max_length=7)
    rows = [[2] * add_start + row[: 7 - add_start - add_end] + [3] * add_end for row in plain]
    expected = [row + [0] * (max(map(len, rows)) - len(row)) for row in rows]
    np.testing.assert_array_equal(framed([*texts, ""]), expected)
    assert framed([]).shape[0] == 0


def test_a_row_ends_at_the_end_or_padding_and_reads_unknown_ids_alike(tokenizer):
    ids = tokenizer(["12"]).numpy()[0].tolist()
    for row in ([2, *ids, 3, *ids], [*ids, 2, 0, *ids]):
        assert tokenizer.detokenize(row).numpy() == b"12"
    unknown = tokenizer.detokenize([*ids, 1, *ids]).numpy()
    for stranger in (tokenizer.vocabulary_size, -5, 2**32 + 4):
        assert tokenizer.detokenize(np.array([*ids, stranger, *ids])).numpy() == unknown
    beams = tokenizer.detokenize(np.array([[ids, ids], [ids, ids], [ids, ids]]))
    assert beams.numpy().tolist() == [[b"12"] * 2] * 3
    assert tokenizer.detokenize(np.zeros((2, 3, 0), "int64")).numpy().tolist() == [[b""] * 3] * 2


@pytest.mark.tensorflow
def test_a_model_with_tokenizers_survives_a_keras_file_in_a_fresh_process(tokenizers, texts, tmp_path, fresh_process):
    strings = keras.Input((), dtype="string")
    framed = {kind: remade(tokenizer, add_end=True, max_length=11) for kind, tokenizer in tokenizers.items()}
    model = keras.Model(strings, {kind: tokenizer(strings) for kind, tokenizer in framed.items()})
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "texts.npy", np.array(texts))
    fresh_process(
        """
        import keras
        import numpy as np
        import tensorflow as tf
        import keras_transformer.text
        model = keras.saving.load_model("model.keras")
        np.savez("ids.npz", **model(tf.constant(np.load("texts.npy"))))
        """,
        cwd=tmp_path,
    )
    found = np.load(tmp_path / "ids.npz")
    for kind, tokenizer in framed.items():
        np.testing.assert_array_equal(found[kind], tokenizer(texts))


def test_in_a_dataset(tokenizer, texts):
    expected = tokenizer(texts).numpy()
    (ids,) = tf.data.Dataset.from_tensor_slices(texts).batch(len(texts)).map(tokenizer)
    np.testing.assert_array_equal(ids, expected)
    assert remade(tokenizer).get_config() == tokenizer.get_config()


def test_wrong_input_is_refused(tokenizer):
    for strings in ("no batch", [["two", "ranks"]], [1, 2], [None], keras.Input((1,), dtype="string")):
        with pytest.raises(ValueError, match=r"strings of shape \(B,\)"):
            tokenizer(strings)
    for ids in (5, np.zeros((2, 3)), ["text"]):
        with pytest.raises(ValueError, match="integer ids of shape"):
            tokenizer.detokenize(ids)
    for length, message in ((2, "leaves no room"), (0, "positive integer"), (7.5, "positive integer")):
        with pytest.raises(ValueError, match=message):
            remade(tokenizer, max_length=length, add_start=True, add_end=True)


@pytest.mark.parametrize("kind", [SentencePieceTokenizer, WordPieceTokenizer, CharacterTokenizer])
def test_training_refuses_what_is_no_texts(kind, tmp_path):
    for texts, message in (("one string", "put a single one in a list"), ([b"bytes"], "takes str"), ([""], "no text")):
        with pytest.raises(ValueError, match=message):
            kind.train(texts, 50)
    path = tmp_path / "cut.txt"
    for before in (b"", b"two dogs run\n" * 10_000):  # at once, and in the middle of the training
        path.write_bytes(before + "한국".encode()[:-1])
        with pytest.raises(ValueError, match="cut.txt is not UTF-8, or was cut off"):
            kind.train([path], 50)


@pytest.mark.parametrize("kind", [SentencePieceTokenizer, WordPieceTokenizer, CharacterTokenizer])
def test_marks_and_line_ends_are_no_text(kind, tmp_path):
    path, plain = tmp_path / "texts.txt", "ab ba abba\nbab\n"
    vocabularies = []
    for content in (
        plain,
        "\ufeff" + plain,
        plain.replace("\n", "\n\ufeff"),
        *(plain.replace("\n", x) for x in ("\r\n", "\r")),
    ):
        path.write_bytes(content.encode())
        vocabularies.append(kind.train([path], 9, character_coverage=1.0).get_vocabulary())
    assert vocabularies == vocabularies[:1] * 5
    for content, message in (
        (plain.encode("utf-16"), "line 1: not UTF-8, but by its bytes UTF-16"),
        (plain.encode("utf-16-be"), "line 1: not UTF-8, but by its bytes UTF-16"),
        (plain.encode() + b"ab\rba\n", "line 3: a carriage return within"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"texts.txt, {message}"):
            kind.train([path], 9)


def test_a_vocabulary_file_may_begin_with_a_mark(tmp_path):
    pieces = ["<pad>", "<unk>", "<s>", "</s>", "ab"]
    for encoding, end in (("utf-8", "\n"), ("utf-8-sig", "\n"), ("utf-8-sig", "\r\n")):
        (tmp_path / "pieces.txt").write_bytes("".join(piece + end for piece in pieces).encode(encoding))
        assert WordPieceTokenizer(tmp_path / "pieces.txt").get_vocabulary() == pieces
