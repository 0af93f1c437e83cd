"""Characters are Python's characters, bytes are bytes."""

import random

import numpy as np
import pytest

from keras_transformer.text import ByteTokenizer, CharacterTokenizer

tf = pytest.importorskip("tensorflow")

ODD = [
    "a\x00b\x00",
    "e\u0301 é",  # the same letter, of two code points and of one
    "👩\u200d👩\u200d👧 👍🏽 🇰🇷",
    "שלום \u202eعربي\u202c ok",
    "\ufeffmark",
    "\t\n\r \u2028",
    "\U0010ffff\uffff\ufffe\ue000",
    "",
]
NOT_UTF8 = [b"\xff\xfeab\xc3(", b"\xe2\x82z\xf0\x9f\x98 ", b"\xed\xa0\x80x\xc0\x80\xf5", b"\xe2\x82"]


def unpadded(ids):
    return [[id for id in row if id] for row in np.asarray(ids).tolist()]


def test_ids_are_the_places_of_pythons_characters():
    randomness = random.Random(5)
    letters = [chr(code) for code in range(0, 0x110000, 97) if not 0xD800 <= code < 0xE000]
    known = randomness.sample(letters, 5003)
    tokenizer = CharacterTokenizer("".join(known))
    texts = ["".join(randomness.choices(letters, k=randomness.randrange(53))) for _ in range(211)]
    place = {letter: 4 + index for index, letter in enumerate(known)}
    expected = [[place.get(letter, 1) for letter in text] for text in texts]
    assert unpadded(tokenizer(texts)) == expected
    back = ["".join(letter if letter in place else "\ufffd" for letter in text) for text in texts]
    assert [text.decode() for text in tokenizer.detokenize(tokenizer(texts)).numpy()] == back


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer.train(ODD), ByteTokenizer()], ids=["characters", "bytes"])
def test_odd_texts_come_back(tokenizer):
    assert [text.decode() for text in tokenizer.detokenize(tokenizer(ODD)).numpy()] == ODD


def test_every_character_of_unicode_comes_back():
    letters = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    tokenizer = CharacterTokenizer(letters)
    ids = tokenizer([letters])
    np.testing.assert_array_equal(ids[0], 4 + np.arange(len(letters)))
    assert tokenizer.detokenize(ids).numpy()[0].decode() == letters


def test_what_is_not_utf8_is_unknown_as_in_python():
    replaced = [text.decode("utf-8", "replace") for text in NOT_UTF8]
    tokenizer = CharacterTokenizer("abxz( ")
    ids = tokenizer(tf.constant(NOT_UTF8))
    assert unpadded(ids) == unpadded(tokenizer(replaced))
    assert [text.decode() for text in tokenizer.detokenize(ids).numpy()] == replaced


def test_bytes_are_bytes():
    every_byte = bytes(range(256))
    strings = [every_byte, *NOT_UTF8, *(text.encode() for text in ODD)]
    tokenizer = ByteTokenizer()
    ids = tokenizer(tf.constant(strings))
    assert unpadded(ids) == [[4 + byte for byte in string] for string in strings]
    assert tokenizer.detokenize(ids).numpy().tolist() == strings
    assert tokenizer.detokenize([101, 1]).numpy().decode() == "a\ufffd"


def test_training_takes_the_most_frequent_characters(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("bbb한\naac\n".encode())
    assert CharacterTokenizer.train([path]).characters == "bac한"
    assert CharacterTokenizer.train(["bbb한", "aac"], 6).characters == "ba"
    assert CharacterTokenizer.train(["bbb한", "aac"], character_coverage=5 / 7).characters == "ba"
    with pytest.raises(ValueError, match="vocabulary_size=4 has no room.*at least 5"):
        CharacterTokenizer.train(["a"], 4)
    for share in (0, 1.5):
        with pytest.raises(ValueError, match="character_coverage is a share"):
            CharacterTokenizer.train(["a"], character_coverage=share)


@pytest.mark.parametrize(
    "characters, message",
    [("", "one string"), (["a", "b"], "one string"), ("abcab", r"more than once: \['a', 'b'\]"), ("a\ud800", "halves")],
)
def test_wrong_characters_are_refused(characters, message):
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer(characters)
