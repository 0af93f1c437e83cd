"""WordPiece as a Keras layer: strings to ids and back, inside the graph and the saved model."""

import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from keras_transformer.text.corpus import alphabet, check_size, has_surrogates, lines
from keras_transformer.text.tokenizer import SPECIAL_PIECES, Tokenizer
from keras_transformer_runtime.packages import needed

_SUFFIX = "##"


@keras.saving.register_keras_serializable("keras_transformer")
class WordPieceTokenizer(Tokenizer):
    """WordPiece tokenizer, BERT's, that runs in the TensorFlow graph.

    A text is split into words at white space, and punctuation and Chinese characters are words by themselves. A word
    w is cut from the left: p_1 is the longest piece of the vocabulary that w starts with, "##" + p_2 the longest that
    continues it, and so on ("BERT", https://arxiv.org/abs/1810.04805; in linear time, however long the word: "Fast
    WordPiece Tokenization", https://arxiv.org/abs/2012.15524). A word that cannot be cut so becomes one `unk_id`.

    `detokenize` puts one space between words, so what comes back is the text's words joined by a space: exact for
    words that stand apart, while "don't." reads "don ' t ." and Japanese or Chinese text gets spaces
    (`SentencePieceTokenizer` keeps both). Unknown words read "<unk>", and a row that starts with a continuing piece
    shows its "##".

    The characters of a text stay what they are. BERT's own clean-up is left out, as it drops the joiners inside emoji,
    Persian and Hindi, and for lower case also the marks of Japanese and the syllables of Korean; texts without control
    and format characters give the ids that BERT's tokenizer gives without stripping accents. What is not UTF-8 reads
    as U+FFFD. The vocabulary travels inside the layer's configuration. A process that loads the SavedModel must
    `import tensorflow_text` first, for its operations; TensorFlow Serving has them built in.

    Args:
        vocabulary: The pieces in the order of their ids, "<pad>", "<unk>", "<s>", "</s>" first: a list, or the path
            of a UTF-8 file with one piece a line. `WordPieceTokenizer.train` makes one.
        fold_case: Whether the texts are put in lower case first.
        **kwargs: `max_length`, `add_start`, `add_end`, `special_tokens`, `name`, as in `Tokenizer`.

    Input shape: (B,), strings: a tensor, a NumPy array or a list.
    Output shape: (B, T), int32, padded with 0 on the right; T is the longest row of the batch.

    Raises:
        ValueError: If the vocabulary has other special pieces, a piece twice, or one that is empty or holds white
            space; if its file is not UTF-8 or ends within a line; if `max_length` leaves no room for a piece; if the
            input is not strings of shape (B,).

    Example:

    >>> from keras_transformer.text import WordPieceTokenizer
    >>> tokenizer = WordPieceTokenizer(["<pad>", "<unk>", "<s>", "</s>", "walk", "##ed", "##s", "she"])
    >>> ids = tokenizer(["she walks", "she ran", "walked"])
    >>> ids.numpy().tolist()
    [[7, 4, 6], [7, 1, 0], [4, 5, 0]]
    >>> [text.decode() for text in tokenizer.detokenize(ids).numpy()]
    ['she walks', 'she <unk>', 'walked']
    """

    joint = " "

    def __init__(self, vocabulary: str | os.PathLike | Sequence[str], *, fold_case: bool = False, **kwargs):
        super().__init__(**kwargs)
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = _read(pathlib.Path(vocabulary))
        self._vocabulary = _checked_vocabulary(vocabulary, self.name)
        self.fold_case = bool(fold_case)
        try:
            self._graph_tokenizer = _graph_tokenizer(self._vocabulary)
        except RuntimeError as error:
            raise ValueError(
                f"{self.name}: TensorFlow Text cuts no words with this vocabulary. A piece has no white space, no "
                f"punctuation or Chinese character beside others, and at most 256 bytes: {error}"
            ) from error
        self.built = True

    @classmethod
    def train(
        cls,
        texts: Iterable[str | os.PathLike],
        vocabulary_size: int,
        *,
        character_coverage: float = 0.9995,
        fold_case: bool = False,
        **kwargs,
    ) -> "WordPieceTokenizer":
        """Learn a vocabulary from texts with TensorFlow Text's learner; the same texts give the same vocabulary.

        Args:
            texts: The training texts. A `pathlib.Path` among them stands for the lines of that UTF-8 file.
                Tensors of strings are taken, too, so a `tf.data.Dataset` of texts, in batches or not.
            vocabulary_size: Largest number of pieces, the four special ones included. The learner takes all pieces
                above a count, so there may be fewer.
            character_coverage: Share of the characters of the texts that the vocabulary must hold, as first and, but
                for punctuation and Chinese characters, as continuing piece; 1.0 keeps every character.
            fold_case: Whether the texts are put in lower case first, in training and ever after.
            **kwargs: Arguments of the tokenizer: `max_length`, `add_start`, `add_end`, `special_tokens`, `name`.

        Returns: The tokenizer. Its `get_vocabulary()` is what another tokenizer can be made from.

        Raises:
            ValueError: If there is no text, or `vocabulary_size` is too small for the characters.
        """
        library = "tensorflow_text.tools.wordpiece_vocab.wordpiece_tokenizer_learner_lib"
        learner = needed(library, f"{cls.__name__}.train")
        check_size(f"{cls.__name__}.train", vocabulary_size)
        words = _count_words(lines(texts, f"{cls.__name__}.train"), fold_case)
        if not words:
            raise ValueError(f"{cls.__name__}.train: there is no text, or only empty ones.")
        letters = Counter()
        for word, count in words.items():
            for letter in word:
                letters[letter] += count
        letters = alphabet(letters, character_coverage)
        base = [*SPECIAL_PIECES, *letters, *(_SUFFIX + letter for letter in _inside_words(letters))]
        if vocabulary_size < len(base):
            raise ValueError(
                f"vocabulary_size={vocabulary_size} is too small for the characters of these texts: give at "
                f"least {len(base)}, or a lower character_coverage."
            )
        # The learner adds the continuing piece of every character and may end above the size it is given, so its
        # longer pieces, which come with the most frequent first, fill up what the characters leave.
        learned = learner.learn(
            words, vocabulary_size, list(SPECIAL_PIECES), lower_thresh=1, max_unique_chars=len(letters)
        )
        longer = [piece for piece in learned[len(SPECIAL_PIECES) :] if len(piece.removeprefix(_SUFFIX)) > 1]
        return cls([*base, *longer[: vocabulary_size - len(base)]], fold_case=fold_case, **kwargs)

    def get_vocabulary(self) -> list[str]:
        """The pieces by id; those that continue a word start with "##"."""
        return [*self._vocabulary, *self.special_tokens]

    def begins_word(self):
        return np.array([not piece.startswith(_SUFFIX) for piece in self.get_vocabulary()])

    def encode(self, strings):
        return self._graph_tokenizer.tokenize(_folded(strings, self.fold_case))

    def decode(self, ids):
        tf = needed("tensorflow", self.name)

        return self._graph_tokenizer.detokenize(ids.with_row_splits_dtype(tf.int64))

    def get_config(self):
        return {**super().get_config(), "vocabulary": list(self._vocabulary), "fold_case": self.fold_case}


def _graph_tokenizer(vocabulary: Sequence[str]):
    """The graph operations over a vocabulary; its tables are constants, not resources that need tracking."""
    tf, tensorflow_text = (needed(name, "WordPieceTokenizer") for name in ("tensorflow", "tensorflow_text"))

    with tf.init_scope(), tf.device("CPU:0"):
        return tensorflow_text.FastWordpieceTokenizer(
            list(vocabulary),
            suffix_indicator=_SUFFIX,
            unknown_token=SPECIAL_PIECES[Tokenizer.unk_id],
            # By default a word of more than 100 bytes is unknown, which is 34 characters of Japanese.
            max_bytes_per_word=2**30,
            token_out_type=tf.int32,
            support_detokenization=True,
        )


def _folded(strings, fold_case: bool):
    tf = needed("tensorflow", "WordPieceTokenizer")

    return tf.strings.lower(strings, encoding="utf-8") if fold_case else strings


def _splitter():
    """The graph operation with next to no vocabulary: it splits texts into words, just as the tokenizer will do."""
    return _graph_tokenizer([*SPECIAL_PIECES, "a"])


def _count_words(texts: Iterable[str], fold_case: bool) -> Counter[str]:
    tf = needed("tensorflow", "WordPieceTokenizer")

    splitter, counts, texts = _splitter(), Counter(), iter(texts)
    while batch := list(itertools.islice(texts, 1024)):
        strings = _folded(tf.constant(batch), fold_case)
        _, starts, ends = splitter.tokenize_with_offsets(strings)
        for text, firsts, lasts in zip(strings.numpy(), starts.to_list(), ends.to_list(), strict=True):
            counts.update(text[first:last].decode() for first, last in zip(firsts, lasts, strict=True))
    return Counter({word: count for word, count in counts.items() if "\0" not in word})  # no piece can hold it


def _inside_words(letters: Sequence[str]) -> list[str]:
    """The characters that can continue a word: all but those that the graph operation makes words of."""
    tf = needed("tensorflow", "WordPieceTokenizer")

    words = _splitter().tokenize(tf.constant(["b" + letter for letter in letters]))
    return [letter for letter, count in zip(letters, words.row_lengths().numpy(), strict=True) if count == 1]


def _read(path: pathlib.Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The vocabulary {path} is not UTF-8, or was cut off: {error}. Write it in UTF-8.") from error
    if not text.endswith("\n"):
        raise ValueError(
            f"The vocabulary {path} does not end with a line end, so it may be cut off. Write it anew, each piece "
            "followed by a line end."
        )
    return text[:-1].split("\n")


def _checked_vocabulary(vocabulary: Sequence[str], name: str) -> tuple[str, ...]:
    pieces = tuple(vocabulary)
    wrong = [
        piece
        for piece in pieces
        if not isinstance(piece, str) or not piece or set(piece) & set(" \t\r\n\0") or has_surrogates(piece)
    ]
    if wrong:
        raise ValueError(
            f"{name} takes pieces that are strings of UTF-8, not empty, without white space and NUL. "
            f"Received: {wrong[:10]}"
        )
    if pieces[: len(SPECIAL_PIECES)] != SPECIAL_PIECES:
        raise ValueError(
            f"{name}: a vocabulary starts with the special pieces {list(SPECIAL_PIECES)}, ids 0 to 3. "
            f"Received: {list(pieces[: len(SPECIAL_PIECES)])}. Put them first; a model that was trained with other ids "
            "needs its embeddings put in the same order."
        )
    twice = [piece for piece, count in Counter(pieces).items() if count > 1]
    if twice:
        raise ValueError(f"{name} takes each piece once; given more than once: {twice[:10]}.")
    if len(pieces) == len(SPECIAL_PIECES):
        raise ValueError(f"{name}: the vocabulary has the special pieces only. Add those of texts, or use train(...).")
    return pieces
