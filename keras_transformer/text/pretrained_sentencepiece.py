"""The tokenizer of a checkpoint that has a SentencePiece model, and ids that need not be the model's."""

import base64
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_transformer.text.checkpoint import CheckpointTokenizer
from keras_transformer.text.definition import by_id
from keras_transformer.text.graph.added import cutting, with_tokens
from keras_transformer.text.graph.strings import Lookup, valid
from keras_transformer.text.special import SPACE
from keras_transformer_runtime.packages import needed

_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}
_CODE = "(?s)^(>>.*?<<)"


@keras.saving.register_keras_serializable("keras_transformer")
class PretrainedSentencePieceTokenizer(CheckpointTokenizer):
    """Tokenizer of a checkpoint that has a SentencePiece model; `kt.pretrained.load_tokenizer` reads a folder.

    The model cuts a text into pieces, and the checkpoint's vocabulary says which id each piece has: that of T5 has
    others behind them, XLM-R another order, Marian two models for one vocabulary. A piece that is none of its tokens is
    unknown, and so is what the model does not know, once for neighbours. All is done by operations of the TensorFlow
    graph, SentencePiece among them, in Python and in a SavedModel alike. The ids are those of the sentencepiece
    package; where two ways to cut a text are equally probable, "b" and "bb" or the reverse, its versions take either. A
    process that loads such a SavedModel must `import tensorflow_text` first.

    Args:
        model: Path of a SentencePiece model file, or its bytes.
        vocabulary: The tokens by id, "" where an id is no token.
        named_tokens: The tokens that have a role, "unk_token" among them, as in `PretrainedTokenizer`.
        added_tokens: Tokens that are cut out of a text before the model sees it: strings, or dicts of "content" and
            "lstrip" or "rstrip", by which white space beside a token goes with it.
        start, end: Tokens that stand around a text unless `add_start` or `add_end` says otherwise.
        language_codes: Whether ">>", a name and "<<" at the beginning of a text are a token, as in Marian's models.
        add_start, add_end: As in `PretrainedTokenizer`.
        **kwargs: `max_length`, `special_tokens`, `name`, as in `Tokenizer`; and what is done to texts first: `prompt`,
            a string, is put in front, `strip=True` takes white space away at the edges, `lowercase=True` makes letters
            small ones.

    Input shape: (B,), strings: a tensor, a NumPy array or a list.
    Output shape: (B, T), int32, padded with the padding token's id, or 0, on the right; T is the longest row.

    Attributes: `start_id`, `end_id` and `pad_id`, None where the checkpoint has no such token; `unk_id`, `mask_id`.

    Raises:
        ValueError: If `model` is none; if the vocabulary lacks a token that is named, or there is no unknown token; if
            the input is not strings of shape (B,).

    Example:

    >>> from keras_transformer.text import PretrainedSentencePieceTokenizer, SentencePieceTokenizer
    >>> trained = SentencePieceTokenizer.train(["the cat sat", "the dog sat", "a cat and a dog"], 16)
    >>> tokenizer = PretrainedSentencePieceTokenizer(
    ...     trained.model,
    ...     [*trained.get_vocabulary(), "<extra_id_0>"],
    ...     named_tokens={"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"},
    ...     added_tokens=["<extra_id_0>"],
    ...     end=["</s>"],
    ... )
    >>> ids = tokenizer(["the cat <extra_id_0>"])
    >>> ids.numpy()[0, -2:].tolist(), tokenizer.detokenize(ids).numpy().tolist()
    ([16, 3], [b'the cat'])
    """

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        vocabulary: Sequence[str],
        *,
        named_tokens: Mapping[str, str],
        added_tokens: Sequence[str | Mapping] = (),
        start: Sequence[str] = (),
        end: Sequence[str] = (),
        language_codes: bool = False,
        add_start: bool | None = None,
        add_end: bool | None = None,
        **kwargs,
    ):
        name = kwargs.get("name") or type(self).__name__
        self.model = model if isinstance(model, bytes) else pathlib.Path(model).read_bytes()
        _check_model(self.model, name)
        self.named_tokens = dict(named_tokens)
        self.added_tokens = [{"content": x} if isinstance(x, str) else dict(x) for x in added_tokens]
        self.template = (list(start), list(end))
        self.language_codes = bool(language_codes)
        numbers = {token: id for id, token in reversed(list(enumerate(vocabulary))) if token}
        wanted = [*self.named_tokens.values(), *(x["content"] for x in self.added_tokens), *start, *end]
        missing = sorted(set(wanted) - set(numbers))
        if missing or "unk_token" not in self.named_tokens:
            given = f"one that lacks {missing}" if missing else f"named_tokens={self.named_tokens}"
            raise ValueError(
                f"{name} takes a vocabulary with all tokens that are named, and an unk_token. Got: {given}"
            )
        super().__init__(
            by_id(numbers, len(vocabulary), name),
            {role: numbers[token] for role, token in self.named_tokens.items()},
            ([numbers[token] for token in start], [numbers[token] for token in end]),
            [numbers[x["content"]] for x in self.added_tokens],
            add_start=add_start,
            add_end=add_end,
            **kwargs,
        )
        self._find = Lookup(numbers, name)
        self._cut = cutting([{**_FLAGS, **x, "id": numbers[x["content"]]} for x in self.added_tokens], name)
        self._is_token = np.array([token != "" for token in vocabulary])

    def begins_word(self):
        return np.array([piece.startswith(SPACE) for piece in self.get_vocabulary()])

    def encode(self, strings):
        tf = needed("tensorflow", self.name)

        parts, ids = self._cut(valid(strings))
        texts = tf.where(ids < 0, parts.values, "")
        codes = tf.fill(tf.shape(texts), -1)
        if self.language_codes:
            there = tf.strings.regex_full_match(texts, _CODE + ".*")
            found = self._numbers(tf.strings.regex_replace(texts, _CODE + ".*", r"\1", replace_global=False))
            codes = tf.where(there, found, -1)
            texts = tf.strings.regex_replace(texts, _CODE, "", replace_global=False)
        pieces = self._operations().tokenize(texts)
        pieces = pieces.with_values(self._numbers(pieces.values)).with_row_splits_dtype(tf.int64)
        return parts.with_values(with_tokens(with_tokens(pieces, codes), ids)).merge_dims(1, 2)

    def _numbers(self, tokens):
        """The ids of tokens (N,), the unknown one for those that are none."""
        import tensorflow as tf

        ids = self._find(tokens)
        return tf.where(ids < 0, self.unk_id, ids)

    def decode(self, ids):
        tf = needed("tensorflow", self.name)

        ids = tf.ragged.boolean_mask(ids, ids.with_values(tf.gather(self._is_token, ids.values)))
        pieces = ids.with_values(tf.gather(tf.constant(self._vocabulary, tf.string), ids.values))
        texts = self._operations().detokenize(pieces.with_row_splits_dtype(tf.int64))
        # Those of another model's pieces come back as they are spelt.
        texts = tf.strings.regex_replace(texts, "\u2581", " ")
        return tf.strings.regex_replace(texts, "^ +| +$", "")

    def _operations(self):
        """The model as operations: the same ones in each eager call, in a graph its own, as a constant is."""
        tf = needed("tensorflow", self.name)

        return self._eager_operations() if tf.executing_eagerly() else _made(self.model, self.name)

    @functools.cached_property
    def _eager_operations(self):
        made = _made(self.model, self.name)
        return lambda: made  # a function, as layers keep track of what they hold

    def get_config(self):
        return {
            **super().get_config(),
            "model": base64.b64encode(self.model).decode("ascii"),
            "vocabulary": list(self._vocabulary),
            "named_tokens": dict(self.named_tokens),
            "added_tokens": [dict(x) for x in self.added_tokens],
            "start": list(self.template[0]),
            "end": list(self.template[1]),
            "language_codes": self.language_codes,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "model": base64.b64decode(config["model"])})


def _made(model: bytes, owner: str):
    tf, tensorflow_text = (needed(name, owner) for name in ("tensorflow", "tensorflow_text"))

    with tf.device("CPU:0"):
        return tensorflow_text.SentencepieceTokenizer(model, out_type=tf.string)


def _check_model(model: bytes, owner: str) -> None:
    sentencepiece = needed("sentencepiece", owner)

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = processor.vocab_size()
    except RuntimeError as error:
        raise ValueError(f"{owner}: the {len(model)} bytes are not a SentencePiece model: {error}") from error
    if not pieces:
        raise ValueError(f"{owner}: the {len(model)} bytes are not a SentencePiece model: it has no pieces.")
