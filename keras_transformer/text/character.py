"""Characters and bytes as pieces: nothing to learn, nothing but TensorFlow's own operations."""

import os
from collections import Counter
from collections.abc import Iterable

import keras
import numpy as np

from keras_transformer.text.corpus import alphabet, check_size, lines
from keras_transformer.text.tokenizer import SPECIAL_PIECES, Tokenizer
from keras_transformer_runtime.packages import needed

_REPLACEMENT = "\ufffd"  # U+FFFD, what Unicode has for a character that cannot be shown


@keras.saving.register_keras_serializable("keras_transformer")
class CharacterTokenizer(Tokenizer):
    """Tokenizer whose pieces are the characters of a text, in the TensorFlow graph.

    The id of a text's i-th character is 4 plus its place in `characters`; a character is a code point of Unicode, as
    in Python's `str`. So a letter with a combining mark, or an emoji of several code points, is several pieces, the
    text is not normalized, and right-to-left text goes in the order it is read. Texts of known characters come back
    exactly. Another character becomes `unk_id`, which reads U+FFFD, as does each part of a text that is not UTF-8
    (the parts that `bytes.decode("utf-8", "replace")` replaces), unless U+FFFD itself is in the vocabulary.
    A process that loads the SavedModel needs TensorFlow only.

    Args:
        characters: The characters of the vocabulary in the order of their ids, each once.
            `CharacterTokenizer.train` finds those of given texts.
        **kwargs: `max_length`, `add_start`, `add_end`, `special_tokens`, `name`, as in `Tokenizer`.

    Input shape: (B,), strings: a tensor, a NumPy array or a list.
    Output shape: (B, T), int32, padded with 0 on the right; T is the longest row of the batch.

    Raises:
        ValueError: If `characters` is empty, is not a string, has a character twice or half of one (a surrogate);
            if `max_length` leaves no room for a piece; if the input is not strings of shape (B,).

    Example:

    >>> from keras_transformer.text import CharacterTokenizer
    >>> tokenizer = CharacterTokenizer("abc", add_end=True)
    >>> ids = tokenizer(["cab", "b?"])
    >>> ids.numpy().tolist()
    [[6, 4, 5, 3], [5, 1, 3, 0]]
    >>> [text.decode() for text in tokenizer.detokenize(ids).numpy()]
    ['cab', 'b\ufffd']
    """

    def __init__(self, characters: str, **kwargs):
        super().__init__(**kwargs)
        self.characters = _checked_characters(characters, self.name)
        codes = np.array([ord(character) for character in characters], "int32")
        self._order = np.argsort(codes)
        self._sorted_codes = codes[self._order]
        self._codes = np.concatenate([np.full(len(SPECIAL_PIECES), ord(_REPLACEMENT), "int32"), codes])  # (V,)
        self.built = True

    @classmethod
    def train(
        cls,
        texts: Iterable[str | os.PathLike],
        vocabulary_size: int | None = None,
        *,
        character_coverage: float = 1.0,
        **kwargs,
    ) -> "CharacterTokenizer":
        """Find the characters of texts, the most frequent first.

        Args:
            texts: The texts. A `pathlib.Path` among them stands for the lines of that UTF-8 file.
                Tensors of strings are taken, too, so a `tf.data.Dataset` of texts, in batches or not.
            vocabulary_size: Largest number of pieces, the four special ones included: the rarest characters
                are left out. None sets no limit.
            character_coverage: Share of the characters of the texts that the vocabulary must hold; less than 1.0
                drops the rarest.
            **kwargs: Arguments of the tokenizer: `max_length`, `add_start`, `add_end`, `special_tokens`, `name`.

        Returns: The tokenizer.

        Raises:
            ValueError: If there is no text, or no room for a character in `vocabulary_size`.
        """
        if vocabulary_size is not None:
            check_size(f"{cls.__name__}.train", vocabulary_size)
        counts = Counter()
        for text in lines(texts, f"{cls.__name__}.train"):
            counts.update(text)
        if not counts:
            raise ValueError(f"{cls.__name__}.train: there is no text, or only empty ones.")
        characters = alphabet(counts, character_coverage)
        if vocabulary_size is not None:
            if vocabulary_size <= len(SPECIAL_PIECES):
                raise ValueError(
                    f"vocabulary_size={vocabulary_size} has no room for a character beside the "
                    f"{len(SPECIAL_PIECES)} special pieces: give at least {len(SPECIAL_PIECES) + 1}."
                )
            characters = characters[: vocabulary_size - len(SPECIAL_PIECES)]
        return cls("".join(characters), **kwargs)

    def get_vocabulary(self) -> list[str]:
        return [*SPECIAL_PIECES, *self.characters, *self.special_tokens]

    def begins_word(self):
        return np.array([piece.isspace() for piece in self.get_vocabulary()])  # a space, and what follows it

    def encode(self, strings):
        tf = needed("tensorflow", self.name)

        codes = tf.strings.unicode_decode(strings, "UTF-8")
        # A binary search, and not a table: a table is a resource that an export must track and initialize.
        places = tf.searchsorted(self._sorted_codes, codes.flat_values)
        places = tf.minimum(places, len(self._sorted_codes) - 1)
        ids = tf.gather(np.int32(len(SPECIAL_PIECES) + self._order), places)
        known = tf.gather(self._sorted_codes, places) == codes.flat_values
        return codes.with_flat_values(tf.where(known, ids, self.unk_id))

    def decode(self, ids):
        tf = needed("tensorflow", self.name)

        return tf.strings.unicode_encode(tf.gather(self._codes, ids), "UTF-8")

    def runtime_files(self):
        return self.runtime_settings("character"), {"characters.txt": self.characters.encode()}

    def get_config(self):
        return {**super().get_config(), "characters": self.characters}


@keras.saving.register_keras_serializable("keras_transformer")
class ByteTokenizer(Tokenizer):
    """Tokenizer whose pieces are the 256 bytes, in the TensorFlow graph.

    The id of a text's i-th byte is 4 plus the byte. Every text comes back exactly, whether it is UTF-8 or not, so
    there are no unknown texts; `max_length` counts bytes, and may cut a character in two. A model may generate
    bytes that are no UTF-8: `detokenize` gives them as they are, and an id that is no byte reads U+FFFD.
    A process that loads the SavedModel needs TensorFlow only. ("ByT5", https://arxiv.org/abs/2105.13626)

    Args:
        **kwargs: `max_length`, `add_start`, `add_end`, `special_tokens`, `name`, as in `Tokenizer`.

    Input shape: (B,), strings: a tensor, a NumPy array or a list.
    Output shape: (B, T), int32, padded with 0 on the right; T is the longest row of the batch.

    Raises:
        ValueError: If `max_length` leaves no room for a piece; if the input is not strings of shape (B,).

    Example:

    >>> from keras_transformer.text import ByteTokenizer
    >>> tokenizer = ByteTokenizer(add_end=True)
    >>> ids = tokenizer(["hi", "é"])
    >>> ids.numpy().tolist()
    [[108, 109, 3], [199, 173, 3]]
    >>> [text.decode() for text in tokenizer.detokenize(ids).numpy()]
    ['hi', 'é']
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def get_vocabulary(self) -> list[str]:
        """The pieces by id; the bytes read "<0x00>" to "<0xFF>"."""
        return [*SPECIAL_PIECES, *(f"<0x{byte:02X}>" for byte in range(256)), *self.special_tokens]

    def runtime_files(self):
        return self.runtime_settings("byte"), {}

    def begins_word(self):
        pieces = [b"."] * len(SPECIAL_PIECES) + [bytes([byte]) for byte in range(256)]
        return np.array([piece.isspace() for piece in pieces] + [False] * len(self.special_tokens))

    def encode(self, strings):
        tf = needed("tensorflow", self.name)

        pieces = tf.strings.bytes_split(strings)
        values = tf.reshape(tf.io.decode_raw(pieces.flat_values, tf.uint8), [-1])
        return pieces.with_flat_values(len(SPECIAL_PIECES) + tf.cast(values, tf.int32))

    def decode(self, ids):
        tf = needed("tensorflow", self.name)

        pieces = [_REPLACEMENT.encode()] * len(SPECIAL_PIECES) + [bytes([byte]) for byte in range(256)]
        return tf.strings.reduce_join(tf.gather(pieces, ids), axis=-1)


def _checked_characters(characters: str, name: str) -> str:
    if not isinstance(characters, str) or not characters:
        raise ValueError(f"{name} takes its characters as one string, 'abc' for three. Received: {characters!r}")
    twice = [character for character, count in Counter(characters).items() if count > 1]
    if twice:
        raise ValueError(f"{name} takes each character once; given more than once: {twice[:10]}.")
    halves = [character for character in characters if "\ud800" <= character <= "\udfff"]
    if halves:
        raise ValueError(f"{name}: {halves[:10]} are halves of characters (surrogates), which no UTF-8 text holds.")
    return characters
