"""WordPiece gives what Hugging Face, KerasHub and a plain longest match give."""

import random

import numpy as np
import pytest

from keras_transformer.text import WordPieceTokenizer

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
SENTENCES = [
    "The quick, brown fox: jumps over (the) lazy dog!",
    "Don't walk; walking walks 3.14",
    "今日は漢字とカタカナ。",
    "다람쥐 헌 쳇바퀴에 타고파.",
    "قاطع، وذو شأن عظيم؟",
    "👩\u200d👩\u200d👧 ❤️ naïve ẞ İ",
]


def unpadded(ids):
    return [[id for id in row if id] for row in np.asarray(ids).tolist()]


@pytest.fixture(scope="module")
def tokenizer():
    words = [word for text in SENTENCES for word in text.split()]
    return WordPieceTokenizer.train(SENTENCES + words, 293, character_coverage=1.0)


@pytest.mark.parametrize("fold_case", [False, True])
def test_ids_equal_those_of_hugging_face_on_random_texts(tokenizer, fold_case):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = WordPieceTokenizer(tokenizer.get_vocabulary(), fold_case=fold_case)
    ids = {piece: id for id, piece in enumerate(tokenizer.get_vocabulary())}
    oracle = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="<unk>"))
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    oracle.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=fold_case
    )
    randomness = random.Random(11)
    pieces = [piece.removeprefix("##") for piece in ids][4:]
    characters = [*sorted(set("".join(SENTENCES))), *pieces, *"  \t\u3000\u00a0\u200b漢?Ω$"]
    texts = ["".join(randomness.choices(characters, k=randomness.randrange(17))) for _ in range(1009)] + SENTENCES
    expected = [row.ids for row in oracle.encode_batch(texts)]
    assert unpadded(tokenizer(texts)) == expected
    assert sum(1 in row for row in expected) < len(texts) / 2


def test_ids_equal_kerashub_but_for_its_white_space(tokenizer):
    """KerasHub drops joiners and takes the ideographic space for a letter; nothing else differs."""
    keras_hub = pytest.importorskip("keras_hub")
    oracle = keras_hub.tokenizers.WordPieceTokenizer(
        tokenizer.get_vocabulary(), lowercase=False, strip_accents=False, oov_token="<unk>"
    )
    randomness = random.Random(17)
    characters = sorted(set("".join(SENTENCES)) - {"\u200d"}) * 2 + list("     漢?Ω$")
    texts = ["".join(randomness.choices(characters, k=randomness.randrange(31))) for _ in range(211)]
    assert unpadded(tokenizer(texts)) == [list(row) for row in oracle(texts)]


def test_words_are_cut_by_the_longest_match():
    pieces = ["un", "u", "##a", "##aff", "##ff", "##able", "##n", "a"]
    tokenizer = WordPieceTokenizer(SPECIAL + pieces)
    randomness = random.Random(3)
    words = ["".join(randomness.choices("unafble", k=randomness.randrange(1, 9))) for _ in range(503)]

    def cut(word):
        found, rest = [], word
        while rest:
            mark = "##" if found else ""
            sizes = [size for size in range(len(rest), 0, -1) if mark + rest[:size] in pieces]
            if not sizes:
                return [1]
            found.append(4 + pieces.index(mark + rest[: sizes[0]]))
            rest = rest[sizes[0] :]
        return found

    words += [
        "unaffable",
        "un" + "aff" * 1009,
    ]  # longer than the 100 bytes after which the operation gives up by itself
    assert unpadded(tokenizer(words)) == [cut(word) for word in words]


def test_words_come_back_with_a_space_between(tokenizer):
    texts = [*SENTENCES[:4], "  two   spaces ", "a<s>b", "☃ fox"]
    back = [text.decode() for text in tokenizer.detokenize(tokenizer(texts)).numpy()]
    assert back[0] == "The quick , brown fox : jumps over ( the ) lazy dog !"
    assert back[1] == "Don ' t walk ; walking walks 3 . 14"
    assert back[2] == "今 日 は 漢 字 とカタカナ 。"
    assert back[-1] == "<unk> fox"
    assert [text.decode() for text in tokenizer.detokenize(tokenizer(back[:4])).numpy()] == back[:4]
    assert tokenizer.detokenize(tokenizer(SENTENCES[5:])).numpy()[0].decode() == SENTENCES[5]


def test_a_trained_vocabulary_holds_every_character_and_frequent_words():
    texts = ["low lower lowest, newer newest 漢字"] * 7 + ["widest"]
    tokenizer = WordPieceTokenizer.train(texts, 47, character_coverage=1.0)
    vocabulary = tokenizer.get_vocabulary()
    letters = set("".join(texts).replace(" ", ""))
    assert letters <= set(vocabulary)
    assert {f"##{letter}" for letter in letters - set(",漢字")} <= set(vocabulary)
    assert not {"##,", "##漢", "##字"} & set(vocabulary)
    assert "low" in vocabulary and len(vocabulary) <= 47
    assert WordPieceTokenizer.train(texts, 47, character_coverage=1.0).get_vocabulary() == vocabulary
    smallest = 4 + len(letters) + len(letters - set(",漢字"))
    with pytest.raises(ValueError, match=f"vocabulary_size=23 is too small.*at least {smallest}"):
        WordPieceTokenizer.train(texts, 23, character_coverage=1.0)
    assert WordPieceTokenizer.train(texts, smallest, character_coverage=1.0).vocabulary_size == smallest
    assert "Low" not in WordPieceTokenizer.train(["Low LOW low"] * 3, 31, fold_case=True).get_vocabulary()


def test_training_reads_files_and_words_of_any_length(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("walk walks\nwalk " + "xy" * 101 + "\n", encoding="utf-8")
    tokenizer = WordPieceTokenizer.train([path], 31, character_coverage=1.0)
    assert {"walk", "x", "##y"} <= set(tokenizer.get_vocabulary())


def test_the_vocabulary_may_be_a_file(tokenizer, tmp_path):
    path = tmp_path / "vocabulary.txt"
    whole = "".join(f"{piece}\n" for piece in tokenizer.get_vocabulary()).encode()
    path.write_bytes(whole)
    assert WordPieceTokenizer(str(path)).get_vocabulary() == tokenizer.get_vocabulary()
    path.write_bytes(whole.replace(b"\n", b"\r\n"))
    assert WordPieceTokenizer(path).get_vocabulary() == tokenizer.get_vocabulary()
    for content, message in (
        (whole[:-1], "does not end with a line end"),
        (whole[: whole.index("漢".encode()) + 1], "is not UTF-8, or was cut off"),
        (b"", "does not end with a line end"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            WordPieceTokenizer(path)


@pytest.mark.parametrize(
    "vocabulary, message",
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"], "starts with the special pieces"),
        ([*SPECIAL[:2], "a"], "starts with the special pieces"),
        (SPECIAL, "special pieces only"),
        ([*SPECIAL, "a", "b", "a"], r"more than once: \['a'\]"),
        ([*SPECIAL, "a", ""], "not empty"),
        ([*SPECIAL, "a\t17"], "white space"),
        ([*SPECIAL, 5], "pieces that are strings"),
    ],
)
def test_wrong_vocabularies_are_refused(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer(vocabulary)
