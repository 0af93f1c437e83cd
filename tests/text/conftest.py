"""Texts of many scripts, and one tokenizer of each kind trained on them."""

import pytest

from keras_transformer.text import ByteTokenizer, CharacterTokenizer, SentencePieceTokenizer, WordPieceTokenizer

# Words apart by single spaces, so that every kind gives them back exactly.
LANGUAGES = {
    "English": ["the quick brown fox jumps over the lazy dog", "twelve of 345 words"],
    "Korean": ["다람쥐 헌 쳇바퀴에 타고파", "오늘은 2024년 1월 12일 금요일입니다"],
    "Japanese": ["いろはにほへと ちりぬるを", "カタカナ がぎぐげご"],
    "Arabic": ["نص حكيم له سر قاطع وذو شأن عظيم", "اليوم ١٢ يناير"],
    "emoji": ["party 🎉 time 👍🏽 ❤️ 😀😀", "family 👩‍👩‍👧 flag 🇰🇷 ok"],
}


@pytest.fixture(scope="package")
def languages():
    return LANGUAGES


@pytest.fixture(scope="package")
def texts():
    return [text for texts in LANGUAGES.values() for text in texts]


@pytest.fixture(scope="package")
def tokenizers(texts):
    """One tokenizer of each kind, by name; each holds every character of the texts."""
    pytest.importorskip("tensorflow_text")
    words = [word for text in texts for word in text.split()]
    return {
        "sentencepiece": SentencePieceTokenizer.train(texts + words, 139, character_coverage=1.0),
        "wordpiece": WordPieceTokenizer.train(texts + words, 401, character_coverage=1.0),
        "characters": CharacterTokenizer.train(texts),
        "bytes": ByteTokenizer(),
    }
