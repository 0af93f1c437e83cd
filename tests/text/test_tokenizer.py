"""What holds for every kind of tokenizer: framing, round trips, files, and what is refused."""

import itertools
import json

import keras
import numpy as np
import pytest

from keras_transformer.text import (
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)

from ..letters import Letters

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


def test_rows_of_different_lengths_are_read(tokenizer, texts):
    ragged = tokenizer.tokenize_ragged([*texts, ""])
    for ids in (ragged, ragged.to_list(), tuple(ragged.to_list()), [np.array(row, int) for row in ragged.to_list()]):
        assert decoded(tokenizer.detokenize(ids)) == [*texts, ""]
    assert decoded(tokenizer.detokenize([[], []])) == ["", ""]
    assert tokenizer.detokenize([]).numpy() == b""


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


SPECIAL = ["<x>", "<x>>", "[a.b]*", "번역"]


def test_special_tokens_are_never_cut(tokenizer, languages):
    base = tokenizer.vocabulary_size
    special = tokenizer.copy(special_tokens=SPECIAL, add_start=True, add_end=True)
    assert special.vocabulary_size == base + 4 and tokenizer.vocabulary_size == base
    assert [special.token_to_id(token) for token in SPECIAL] == [base, base + 1, base + 2, base + 3]
    plain, other = languages["English"]
    cases = [
        ["<x>"],
        [plain, "<x>", other],
        ["<x>>", plain],  # the longer of two that fit
        ["[a.b]*", "<x>", "<x>", plain, "번역"],
        [plain],
        [],
    ]

    def ids_of(part):  # by the tokenizer without
        return [base + SPECIAL.index(part)] if part in SPECIAL else tokenizer([part]).numpy()[0].tolist()

    rows = [[2, *itertools.chain(*map(ids_of, case)), 3] for case in cases]
    texts = ["".join(case) for case in cases]
    ids = special(texts)
    np.testing.assert_array_equal(ids, [row + [0] * (ids.shape[1] - len(row)) for row in rows])
    assert special.tokenize_ragged(texts).to_list() == rows
    assert decoded(special.detokenize(ids, skip_special_tokens=False)) == [special.joint.join(case) for case in cases]
    without = [[id for id in row if 3 < id < base] for row in rows]
    assert decoded(special.detokenize(ids)) == [
        tokenizer.detokenize(row).numpy().decode() if row else "" for row in without
    ]
    beams = special.detokenize(np.array([[[base, 3], [2, base + 3]]]), skip_special_tokens=False)
    assert beams.numpy().tolist() == [[b"<x>", "번역".encode()]]
    assert decoded(special.detokenize(np.zeros((2, 0), "int32"), skip_special_tokens=False)) == ["", ""]
    whole = special.detokenize(rows, lengths=[len(row) - 1 for row in rows])  # each is its own width, less the end
    assert decoded(whole) == decoded(special.detokenize(ids))
    beams = special.detokenize(np.array([[[3, *ids[4], 0, *ids[4]]] * 2]), lengths=np.array([[2 + ids.shape[1]] * 2]))
    assert decoded(beams[0]) == [plain] * 2
    with pytest.raises(ValueError, match=r"integers of the shape of its rows, \(6,\). Received: int32 of"):
        special.detokenize(ids, lengths=[1, 2])
    with pytest.raises(ValueError, match="no token '<y>' in its vocabulary"):
        special.token_to_id("<y>")


@pytest.mark.parametrize("special", [["<a>", "<a>"], [""], [5], "<a>", None, 7, {"<a>", "<b>"}])
def test_special_tokens_that_are_refused(special):
    with pytest.raises(ValueError, match="special"):
        CharacterTokenizer("abc", special_tokens=special)
    with pytest.raises(ValueError, match=r"special_tokens \['b'\], which get_vocabulary\(\) has to list once"):
        CharacterTokenizer("abc", special_tokens=["b"])(["abc"])
    with pytest.raises(ValueError, match=r"halves of characters \(surrogates\)"):
        CharacterTokenizer("abc", special_tokens=["<\ud800>"])


def test_no_text_is_lost_between_special_tokens():
    """Noncharacters, NUL, byte order marks, and bytes that are no text."""
    odd = [
        "\ufdd0\ufdd1\ufdd0",
        "a\ufdd0<x>\ufdd1",
        "\ufffe\uffff<x>\0",
        "\ufeff<x>\ufeff",
        "<x>\r\n<x>",
        "<<x>>",
        r"\1<x>\\",
    ]
    special = ByteTokenizer(special_tokens=["<x>"])
    rows = [[(x + 4) if x < 256 else 260 for x in _bytes(text)] for text in odd]
    assert special.tokenize_ragged(odd).to_list() == rows
    assert decoded(special.detokenize(special(odd), skip_special_tokens=False)) == odd
    wrong = [b"\xff<x>\xfe", b"<x>\xed\xa0\x80", b"\xc3"]
    assert special.detokenize(special(wrong), skip_special_tokens=False).numpy().tolist() == wrong


def _bytes(text):
    """The bytes of a text, 256 for a special token."""
    parts = text.split("<x>")
    return [*parts[0].encode(), *itertools.chain(*([256, *part.encode()] for part in parts[1:]))]


def test_tokens_and_ids(tokenizer):
    vocabulary = tokenizer.get_vocabulary()
    for id in (0, 3, 4, len(vocabulary) - 1):
        assert tokenizer.id_to_token(id) == vocabulary[id]
        assert tokenizer.token_to_id(vocabulary[id]) == id
    assert tokenizer.padding_id == tokenizer.token_to_id("<pad>") == 0
    for id in (-1, len(vocabulary), 1.0, True, "a"):
        with pytest.raises(ValueError, match=f"has the ids 0 to {len(vocabulary) - 1}. Received: {id!r}"):
            tokenizer.id_to_token(id)
    for token in (b"</s>", ["</s>"], 3, None):
        with pytest.raises(ValueError, match="has no token"):
            tokenizer.token_to_id(token)


def test_save_and_load(tokenizer, texts, tmp_path):
    tokenizer = tokenizer.copy(add_end=True, max_length=11, special_tokens=["<x>"])
    tokenizer.save(tmp_path / "tokenizer.json")
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kt_tokenizer.json", "tokenizer.json"]
    for kind, path in ((Tokenizer, "tokenizer.json"), (type(tokenizer), ".")):
        loaded = kind.load(tmp_path / path)
        assert type(loaded) is type(tokenizer) and loaded.get_config() == tokenizer.get_config()
        np.testing.assert_array_equal(loaded([*texts, "<x>"]), tokenizer([*texts, "<x>"]))
    with pytest.raises(ValueError, match="is there.*overwrite=True"):
        tokenizer.save(tmp_path)
    tokenizer.copy(add_end=False).save(tmp_path, overwrite=True)
    assert not Tokenizer.load(tmp_path).add_end


def test_only_a_tokenizer_is_overwritten(tmp_path):
    tokenizer = CharacterTokenizer("abc")
    (tmp_path / "notes.txt").write_text("not yours")
    (tmp_path / "link.json").symlink_to(tmp_path / "nothing.json")
    for name in ("notes.txt", "link.json"):
        with pytest.raises(ValueError, match=f"{name}' is there and holds no tokenizer, so it is not overwritten"):
            tokenizer.save(tmp_path / name, overwrite=True)
        with pytest.raises(ValueError, match=f"{name}' is there"):
            tokenizer.save(tmp_path / name)
    assert (tmp_path / "notes.txt").read_text() == "not yours"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "notes.txt"]
    with pytest.raises(FileNotFoundError, match="There is no folder .*absent' to write 'tokenizer.json' to"):
        tokenizer.save(tmp_path / "absent" / "tokenizer.json")


@pytest.mark.parametrize(
    "wrong", [{"characters": 5}, {"special_tokens": 5}, {"add_end": None}, {"dtype": "x"}, {"other": 1}, None]
)
def test_a_file_with_wrong_arguments_is_named(wrong, tmp_path):
    CharacterTokenizer("abc").save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    if wrong is None:
        del content["tokenizer"]["config"]["characters"]
    content["tokenizer"]["config"].update(wrong or {})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="tokenizer.json' holds a CharacterTokenizer that cannot be made"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_files_that_are_no_tokenizers(tmp_path):
    path = tmp_path / "tokenizer.json"
    CharacterTokenizer("abc").save(path)
    whole = path.read_text()
    with pytest.raises(ValueError, match="holds a CharacterTokenizer, no WordPieceTokenizer"):
        WordPieceTokenizer.load(path)
    for content in (
        whole[:50],
        "",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 2, "tokenizer": {}}',
        '{"model": {"type": "BPE"}}',
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match="is no tokenizer that `save` wrote"):
            Tokenizer.load(path)
    path.write_text(whole.replace("CharacterTokenizer", "OtherTokenizer"))
    with pytest.raises(ValueError, match="holds a OtherTokenizer, which Keras cannot find. Import what defines it"):
        Tokenizer.load(path)
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(tmp_path / "nothing.json")


def test_a_copy_is_the_same_but_for_what_is_changed(tokenizer, texts):
    target = tokenizer.copy(add_start=True, add_end=True)
    assert (target.add_start, target.add_end, target.name != tokenizer.name) == (True, True, True)
    assert target.get_vocabulary() == tokenizer.get_vocabulary()
    for row, framed in zip(
        tokenizer.tokenize_ragged(texts).to_list(), target.tokenize_ragged(texts).to_list(), strict=True
    ):
        assert framed == [2, *row, 3]


def test_other_special_ids():
    letters = Letters(add_start=True, add_end=True, special_tokens=["<x>"])
    ids = letters(["ab", "<x>b", "a"])
    assert ids.numpy().tolist() == [[0, 3, 4, 1], [0, 5, 4, 1], [0, 3, 1, 1]]
    assert decoded(letters.detokenize(ids)) == ["ab", "b", "a"]
    assert letters.padding_id == 1
    unpadded = type("Unpadded", (Letters,), {"pad_id": None})(add_end=True)
    assert unpadded(["ab", "a"]).numpy().tolist() == [[3, 4, 1], [3, 1, 0]]
    assert unpadded.tokenize_ragged(["ab", "a"]).to_list() == [[3, 4, 1], [3, 1]]
    assert unpadded.padding_id is None


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
def test_texts_as_they_come(kind):
    """Tensors and datasets of strings; what holds characters that the libraries keep for themselves is not left out."""
    texts = ["ab ba abba", "bab", "ab aab"]
    expected = kind.train(texts, 9).get_vocabulary()
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    for given in (tf.constant(texts), dataset, dataset.batch(2), np.array(texts), (text for text in texts)):
        assert kind.train(given, 9).get_vocabulary() == expected
    odd = kind.train(["ab \u2585", "ba\0", "abba \u2581", "cc"], 20 if kind is WordPieceTokenizer else 10)
    assert "c" in odd.get_vocabulary()
    assert decoded(odd.detokenize(odd(["ab c"]))) == ["ab c"]
    for size in (0, -3, 7.5, "9", True, *([] if kind is CharacterTokenizer else [None])):
        with pytest.raises(ValueError, match="positive integer as vocabulary_size"):
            kind.train(texts, size)
    with pytest.raises(ValueError, match=r"halves of characters \(surrogates\)"):
        kind.train(["ab\ud800"], 9)
    with pytest.raises(ValueError, match="takes an iterable"):
        kind.train(5, 9)


@pytest.mark.parametrize("piece", ["a\0b", "\0", "##", "<x>", "don't", "\ud800", "x" * 257, "中文"])
def test_pieces_that_cut_no_words(piece):
    with pytest.raises(ValueError, match="cuts no words with this vocabulary|takes pieces that are strings of UTF-8"):
        WordPieceTokenizer(["<pad>", "<unk>", "<s>", "</s>", piece])


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
