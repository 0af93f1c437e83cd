"""SentencePiece as a Keras layer: strings to ids and back, inside the graph and the saved model.

TensorFlow and sentencepiece are imported by the methods that need them, so that importing this module (which
registers the layer for loading `.keras` files) costs nothing on other backends.
"""

import base64
import io
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable

import keras
import numpy as np

from keras_transformer.text.corpus import check_size, lines
from keras_transformer.text.special import SPACE
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer_runtime.packages import needed

# The graph operation ignores these settings of a model without a word: each was seen to give other ids or
# other text than the sentencepiece package does (tensorflow_text 2.21.1).
_REQUIRED_SETTINGS = (
    ("trainer_spec", "byte_fallback", False),
    ("trainer_spec", "treat_whitespace_as_suffix", False),
    ("trainer_spec", "unk_surface", " \u2047 "),
    ("normalizer_spec", "add_dummy_prefix", True),
)

_RESERVED = "\u2585"  # kUNKStr in sentencepiece's trainer_interface.cc


@keras.saving.register_keras_serializable("keras_transformer")
class SentencePieceTokenizer(Tokenizer):
    """SentencePiece tokenizer (unigram language model) that runs in the TensorFlow graph.

    Of all ways to cut a text into pieces of the vocabulary, the most probable one is taken:
    argmax over (p_1 ... p_n) of log P(p_1) + ... + log P(p_n)
    ("Subword Regularization", https://arxiv.org/abs/1804.10959; "SentencePiece", https://arxiv.org/abs/1808.06226).
    The ids equal those of the `sentencepiece` package, normalization (NFKC) included: text comes back with the
    full-width forms of Japanese and Chinese punctuation as ordinary ones, and runs of white space as one space. Where
    every character has to come back, take `CharacterTokenizer` or `ByteTokenizer`. Neighbouring characters that
    the vocabulary lacks become one `unk_id`, which reads " \u2047 ". Bytes that are not UTF-8 are read as such
    characters, too, but two with a control character between them may join to a character, which they do not in the
    package. Where a text begins, `detokenize` leaves out a space. The model travels inside the layer's configuration,
    so a `.keras` file or a SavedModel needs no other file. A process that loads the SavedModel must
    `import tensorflow_text` first, for its operations; TensorFlow Serving has them built in.

    Args:
        model: Path of a SentencePiece model file, or its bytes. `SentencePieceTokenizer.train` makes one.
        **kwargs: `max_length`, `add_start`, `add_end`, `special_tokens`, `name`, as in `Tokenizer`.

    Input shape: (B,), strings: a tensor, a NumPy array or a list.
    Output shape: (B, T), int32, padded with 0 on the right; T is the longest row of the batch.

    Raises:
        ValueError: If `model` is not a SentencePiece model, is not a unigram model, uses a setting that the
            graph operation does not follow, or has other special ids; if `max_length` leaves no room for a
            piece; if the input is not strings of shape (B,).

    Example:

    >>> from keras_transformer.text import SentencePieceTokenizer
    >>> texts = ["the cat sat", "the dog sat", "a cat and a dog"]
    >>> tokenizer = SentencePieceTokenizer.train(texts, 16, add_end=True)
    >>> ids = tokenizer(["the cat", "a dog sat"])
    >>> [text.decode() for text in tokenizer.detokenize(ids).numpy()]
    ['the cat', 'a dog sat']
    """

    joint = " "

    def __init__(self, model: str | os.PathLike | bytes, **kwargs):
        super().__init__(**kwargs)
        self.model = model if isinstance(model, bytes) else pathlib.Path(model).read_bytes()
        pieces = _checked_pieces(self.model, self.name)
        self._vocabulary = [piece.piece for piece in pieces]
        self._scores = [piece.score for piece in pieces]
        self._is_control = np.array([piece.type == piece.CONTROL for piece in pieces])  # (V,)
        self._graph_tokenizer = _graph_tokenizer(self.model)
        self.built = True

    @classmethod
    def train(
        cls,
        texts: Iterable[str | os.PathLike],
        vocabulary_size: int,
        *,
        character_coverage: float = 0.9995,
        split_digits: bool = False,
        fold_case: bool = False,
        **kwargs,
    ) -> "SentencePieceTokenizer":
        """Train a unigram model on texts; the same texts give the same model.

        Args:
            texts: The training texts. A `pathlib.Path` among them stands for the lines of that UTF-8 file.
                Tensors of strings are taken, too, so a `tf.data.Dataset` of texts, in batches or not.
            vocabulary_size: Number of pieces, the four special ones included.
            character_coverage: Share of the characters of the texts that the vocabulary must hold; 1.0 keeps
                every character, the default drops the rarest (useful for Chinese and Japanese).
            split_digits: Whether each digit is a piece of its own, as suits dates and numbers.
            fold_case: Whether the texts are put in lower case first, in training and ever after.
            **kwargs: Arguments of the tokenizer: `max_length`, `add_start`, `add_end`, `special_tokens`, `name`.

        Returns: The tokenizer. Its attribute `model` is the model's bytes, from which another tokenizer, say
        with `add_start`, can be made.

        Raises:
            ValueError: If there is no text, or the texts do not allow `vocabulary_size`.
        """
        sentencepiece = needed("sentencepiece", f"{cls.__name__}.train")
        check_size(f"{cls.__name__}.train", vocabulary_size)
        # Texts with the character that sentencepiece keeps for itself are skipped without a word.
        given = (text.replace(_RESERVED, " ") for text in lines(texts, "SentencePieceTokenizer.train"))
        begin = next((text for text in given if text.strip()), None)
        if begin is None:
            raise ValueError("SentencePieceTokenizer.train: there is no text, or only empty ones.")
        model, problems = io.BytesIO(), []

        def remembering(texts):  # of errors in it, sentencepiece keeps the text only
            try:
                yield from texts
            except ValueError as error:
                problems.append(error)
                raise

        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=remembering(itertools.chain([begin], given)),
                model_writer=model,
                model_type="unigram",
                vocab_size=vocabulary_size,
                character_coverage=character_coverage,
                split_digits=split_digits,
                normalization_rule_name="nmt_nfkc_cf" if fold_case else "nmt_nfkc",
                pad_id=cls.pad_id,
                unk_id=cls.unk_id,
                bos_id=cls.start_id,
                eos_id=cls.end_id,
                # Longer texts are skipped without a word; sentencepiece's own limit is 4192 bytes.
                max_sentence_length=2**30,
                # Sums of floats depend on the number of threads, so it is fixed whatever the machine.
                num_threads=4,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise (problems or [ValueError(_training_problem(str(error), vocabulary_size))])[0] from error
        return cls(model.getvalue(), **kwargs)

    def get_vocabulary(self) -> list[str]:
        """The pieces by id; the first piece of a word starts with "\u2581", special ones read "<pad>"."""
        return [*self._vocabulary, *self.special_tokens]

    def is_control(self):
        return np.concatenate([self._is_control, np.ones(len(self.special_tokens), bool)])

    def begins_word(self):
        return np.array([piece.startswith(SPACE) for piece in self.get_vocabulary()])

    def encode(self, strings):
        return self._graph_tokenizer.tokenize(strings)

    def decode(self, ids):
        return self._graph_tokenizer.detokenize(ids)

    def runtime_files(self):
        pieces = json.dumps(list(zip(self._vocabulary, self._scores, strict=True)), ensure_ascii=False)
        return self.runtime_settings("sentencepiece"), {"model": self.model, "pieces.json": pieces.encode()}

    def get_config(self):
        return {**super().get_config(), "model": base64.b64encode(self.model).decode("ascii")}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "model": base64.b64decode(config["model"])})


def _graph_tokenizer(model: bytes):
    """The graph operations over one model; its tables are constants, not resources that need tracking."""
    tf, tensorflow_text = (needed(name, "SentencePieceTokenizer") for name in ("tensorflow", "tensorflow_text"))

    with tf.init_scope(), tf.device("CPU:0"):
        return tensorflow_text.FastSentencepieceTokenizer(model)


def _checked_pieces(model: bytes, name: str):
    """The pieces of a model by id, once it is sure that the graph operation follows the model exactly."""
    sentencepiece = needed("sentencepiece", "SentencePieceTokenizer")
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (DecodeError, RuntimeError) as error:
        raise ValueError(f"{name}: the {len(model)} bytes are not a SentencePiece model: {error}") from error
    if not proto.pieces:
        raise ValueError(f"{name}: the {len(model)} bytes are not a SentencePiece model: it has no pieces.")
    kind = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)
    if kind != "UNIGRAM":
        raise ValueError(
            f"{name} runs unigram models only, as the graph operation gives wrong ids for all others. "
            f"Received: a {kind} model. Train a unigram model, with SentencePieceTokenizer.train(...) or "
            "with sentencepiece's model_type='unigram'."
        )
    for spec, setting, required in _REQUIRED_SETTINGS:
        given = getattr(getattr(proto, spec), setting)
        if given != required:
            raise ValueError(
                f"{name}: the graph operation does not follow {setting}={given!r} and would be wrong. "
                f"Train the model with {setting}={required!r}, as SentencePieceTokenizer.train(...) does."
            )
    if processor.encode("a\tb\nc\rd") != processor.encode("a b c d"):
        raise ValueError(
            f"{name}: the graph operation reads tabs and line ends as spaces, but the model's normalization "
            f"{proto.normalizer_spec.name!r} does not. Train the model with 'nmt_nfkc' or 'nmt_nfkc_cf', as "
            "SentencePieceTokenizer.train(...) does."
        )
    tokenizer = SentencePieceTokenizer
    expected = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.start_id, tokenizer.end_id)
    special = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    if special != expected:
        raise ValueError(
            f"{name}: the model's ids of padding, unknown, start and end must be {expected}. Received: "
            f"{special} (-1 is none). Train it with pad_id=0, unk_id=1, bos_id=2, eos_id=3, as "
            "SentencePieceTokenizer.train(...) does."
        )
    return proto.pieces


def _training_problem(message: str, vocabulary_size: int) -> str:
    """What sentencepiece's error says, in the terms of `train`."""
    largest = re.search(r"set it to a value <= (\d+)", message)
    smallest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if largest:
        return f"vocabulary_size={vocabulary_size} is too large: these texts allow at most {largest[1]}."
    if smallest:
        return (
            f"vocabulary_size={vocabulary_size} is too small for the characters of these texts: give at "
            f"least {smallest[1]}, or a lower character_coverage."
        )
    return f"SentencePiece could not train: {message}"
