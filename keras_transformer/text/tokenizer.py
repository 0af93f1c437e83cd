"""What all tokenizers have in common: special ids and tokens, rows of ids from pieces, the way back, files."""

import functools
import operator
import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_transformer.layers.checks import check_positive
from keras_transformer.text.files import load_tokenizer, save_tokenizer
from keras_transformer.text.special import checked_tokens, decode_with, encode_with
from keras_transformer_runtime.packages import needed

SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>")


class Tokenizer(keras.layers.Layer):
    """Base of the tokenizers: strings (B,) to padded ids (B, T) and back, in the TensorFlow graph.

    A subclass says what its pieces are, with three methods: `encode(strings)` gives the ids of the pieces, int32,
    as a `tf.RaggedTensor` (B, None); `decode(ids)` gives the strings (B,) of such a tensor, which holds ids of the
    vocabulary only; `get_vocabulary()` lists the pieces by id, `special_tokens` last. It sets `built` to True, and, if
    its ids of padding, unknown, start and end are not 0 to 3, the class attributes `pad_id`, `unk_id`, `start_id` and
    `end_id`.

    Special tokens stand for themselves: wherever such a string is in a text, it is one id and never cut. They have the
    ids behind the other pieces, and `detokenize` leaves them out unless told otherwise. What is between two of them is
    cut as a text by itself.

    Args:
        max_length: Longest row of ids, start and end included; what is beyond it is cut off, but never the
            end id. None keeps every row whole.
        add_start: Whether each row starts with `start_id`.
        add_end: Whether each row ends with `end_id`.
        special_tokens: Strings that are one id each, such as "<translate>"; their ids follow those of the pieces.
        **kwargs: `name` and `dtype` of `keras.layers.Layer`.

    Input shape: (B,), strings: a tensor, a NumPy array or a list.
    Output shape: (B, T), int32, padded with 0 on the right; T is the longest row of the batch.

    Raises:
        ValueError: If `max_length` leaves no room for a piece; if a special token is empty, no string or there twice;
            if the input is not strings of shape (B,).

    Example:

    >>> import tensorflow as tf
    >>> from keras_transformer.text import Tokenizer
    >>> class Digits(Tokenizer):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.built = True
    ...     def get_vocabulary(self):
    ...         return ["<pad>", "<unk>", "<s>", "</s>", *"0123456789", *self.special_tokens]
    ...     def encode(self, strings):
    ...         return tf.strings.to_number(tf.strings.bytes_split(strings), tf.int32) + 4
    ...     def decode(self, ids):
    ...         return tf.strings.reduce_join(tf.gather(self.get_vocabulary(), ids), axis=-1)
    >>> digits = Digits(add_end=True)
    >>> ids = digits(["31", "2"])
    >>> ids.numpy().tolist()
    [[7, 5, 3], [6, 3, 0]]
    >>> digits.detokenize(ids).numpy().tolist()
    [b'31', b'2']
    >>> target = digits.copy(add_start=True, special_tokens=["<plus>"])
    >>> target(["3<plus>1"]).numpy().tolist(), target.token_to_id("<plus>")
    ([[2, 7, 14, 5, 3]], 14)
    """

    pad_id = 0
    unk_id = 1
    start_id = 2
    end_id = 3
    joint = ""  # what stands between a special token and the text beside it, where `detokenize` shows the token

    def __init__(
        self,
        *,
        max_length: int | None = None,
        add_start: bool = False,
        add_end: bool = False,
        special_tokens: Sequence[str] = (),
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.max_length = max_length
        self.add_start = bool(int(add_start))  # None is an error
        self.add_end = bool(int(add_end))
        if max_length is not None:
            check_positive(self, max_length=max_length)
            room = 1 + sum(map(len, self.frame))
            if max_length < room:
                raise ValueError(
                    f"{self.name}: max_length={max_length} leaves no room for a piece; with "
                    f"add_start={add_start} and add_end={add_end} it must be at least {room}."
                )
        self.special_tokens = checked_tokens(special_tokens, self.name)

    def encode(self, strings):
        """Strings (B,) to the ids of their pieces, a `tf.RaggedTensor` (B, None)."""
        raise NotImplementedError

    def decode(self, ids):
        """Ids of the vocabulary, a `tf.RaggedTensor` (B, None), to strings (B,)."""
        raise NotImplementedError

    def get_vocabulary(self) -> list[str]:
        """The pieces by id."""
        raise NotImplementedError

    @property
    def padding_id(self) -> int | None:
        """The id that rows are padded with. None: every id is one of text."""
        return self.pad_id

    @property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids in front of the pieces of a row, and those behind them."""
        return (self.start_id,) * self.add_start, (self.end_id,) * self.add_end

    @property
    def vocabulary_size(self) -> int:
        """Number of pieces, the special ones included."""
        return len(self.get_vocabulary())

    def token_to_id(self, token: str) -> int:
        """The id of a piece or a special token. Raises ValueError for another string."""
        if not isinstance(token, str) or token not in self._ids_by_token:
            raise ValueError(f"{self.name} has no token {token!r} in its vocabulary of {self.vocabulary_size}.")
        return self._ids_by_token[token]

    def id_to_token(self, id: int) -> str:
        """The piece or special token of an id. Raises ValueError for what is no id of the vocabulary."""
        vocabulary = self.get_vocabulary()
        if isinstance(id, bool) or not isinstance(id, int | np.integer) or not 0 <= id < len(vocabulary):
            raise ValueError(f"{self.name} has the ids 0 to {len(vocabulary) - 1}. Received: {id!r}")
        return vocabulary[id]

    @functools.cached_property
    def _ids_by_token(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self.get_vocabulary())}

    def copy(self, **changes) -> "Tokenizer":
        """A tokenizer of the same vocabulary with other arguments: `source.copy(add_start=True, add_end=True)` is the
        target's form of a tokenizer. It has a name of its own."""
        config = {name: value for name, value in self.get_config().items() if name != "name"}
        return type(self).from_config({**config, **changes})

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write all that the tokenizer is to a JSON file; in a folder that is there, to `kt_tokenizer.json`.

        Raises: ValueError if the file is there, and may not be overwritten or is no tokenizer.
        """
        save_tokenizer(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """The tokenizer that `save` wrote to that file or folder, of whatever kind it is.

        Raises: ValueError if it is no such file, or holds a tokenizer that is not a `cls`.
        """
        return load_tokenizer(cls, path)

    def is_control(self) -> np.ndarray:
        """Which ids are no part of the text, (V,): padding, start and end, and special tokens."""
        ids = np.arange(self.vocabulary_size)
        return np.isin(ids, (self.pad_id, self.start_id, self.end_id)) | (ids >= self.first_special_id)

    def begins_word(self) -> np.ndarray:
        """Which ids begin a word, (V,), and do not continue the one before them. Here all do: each piece is a word."""
        return np.ones(self.vocabulary_size, bool)

    def hidden_ids(self, skip_special_tokens: bool) -> np.ndarray:
        """Which ids `detokenize` leaves out, (V,)."""
        hidden = self.is_control()
        return hidden if skip_special_tokens else hidden & (np.arange(len(hidden)) < self.first_special_id)

    def stop_ids(self) -> list[int]:
        """The ids at which `detokenize` stops reading: end and padding."""
        return [id for id in (self.end_id, self.pad_id) if id is not None]

    @property
    def first_special_id(self) -> int:
        """The id of the first special token, if there is one."""
        return self.vocabulary_size - len(self.special_tokens)

    def check_graph(self) -> None:
        """Raise ValueError if what the tokenizer does is not done by operations of the graph, and cannot be
        exported."""

    def runtime_files(self) -> tuple[dict, dict[str, bytes]] | None:
        """What `keras_transformer_runtime` needs to do the same without TensorFlow: settings, `kind` among them, and
        files by name. None if it cannot."""
        return None

    def runtime_settings(self, kind: str) -> dict:
        """The settings that all kinds of tokenizers have."""
        names = ("pad_id", "unk_id", "start_id", "end_id", "max_length", "add_start", "add_end")
        special = {token: self.first_special_id + place for place, token in enumerate(self.special_tokens)}
        settings = {"kind": kind, **{name: getattr(self, name) for name in names}}
        return {**settings, "special_tokens": special} if special else settings

    def __call__(self, strings, **kwargs):
        # keras.layers.Layer takes tensors of the backend only, and TensorFlow alone has tensors of strings.
        # So lists and arrays become such tensors first, and on another backend the layer is a function.
        if isinstance(strings, keras.KerasTensor):
            return super().__call__(strings, **kwargs)
        if keras.backend.backend() == "tensorflow":
            return super().__call__(self._string_tensor(strings), **kwargs)
        return self.tokenize(strings)

    def call(self, strings):
        return self.tokenize(strings)

    def tokenize(self, strings):
        """Strings (B,) to int32 ids (B, T), padded with `padding_id` on the right, or with 0 where there is none."""
        tf = needed("tensorflow", self.name)

        pieces = self._pieces(self._string_tensor(strings))
        padding = self.padding_id or 0
        start, end = self.frame
        lengths = tf.cast(pieces.row_lengths(), tf.int32)
        if self.max_length is not None:
            lengths = tf.minimum(lengths, self.max_length - len(start) - len(end))
        # From here on with plain operations on dense rows, which LiteRT has, too.
        ids = pieces.to_tensor(default_value=padding)
        width = tf.reduce_max(tf.pad(lengths, [[0, 1]]))  # the pad is for a batch of no rows
        ids = tf.pad(ids[:, :width], [[0, 0], [0, len(end)]])
        places = tf.expand_dims(tf.range(tf.shape(ids)[1]), 0)
        lengths = tf.expand_dims(lengths, 1)
        ids = tf.where(places < lengths, ids, padding)
        for place, id in enumerate(end):
            ids = tf.where(places == lengths + place, id, ids)
        for id in reversed(start):
            ids = tf.pad(ids, [[0, 0], [1, 0]], constant_values=id)
        return ids

    def tokenize_ragged(self, strings):
        """Strings (B,) to int32 ids as a `tf.RaggedTensor` (B, None): without padding, whatever id that is."""
        tf = needed("tensorflow", self.name)

        pieces = tf.cast(self._pieces(self._string_tensor(strings)), tf.int32)
        start, end = self.frame
        if self.max_length is not None:
            pieces = pieces[:, : self.max_length - len(start) - len(end)]
        start, end = ([tf.fill([pieces.nrows(), 1], id) for id in ids] for ids in (start, end))
        return tf.concat([*start, pieces, *end], axis=1)

    def _pieces(self, strings):
        """The ids of the pieces and of the special tokens, (B, None)."""
        if not self.special_tokens:
            return self.encode(strings)
        vocabulary, special = self.get_vocabulary(), list(self.special_tokens)
        twice = set(vocabulary[: self.first_special_id]) & set(special)
        if vocabulary[self.first_special_id :] != special or twice:
            raise ValueError(
                f"{self.name} takes special_tokens {special}, which get_vocabulary() has to list once, behind the "
                f"pieces. {f'{sorted(twice)} are pieces, too.' if twice else 'The last of it:'} "
                f"{'' if twice else vocabulary[self.first_special_id :]}"
            )
        return encode_with(special, self.first_special_id, strings, self.encode)

    def detokenize(self, ids, skip_special_tokens: bool = True, *, lengths=None):
        """Ids (..., T) to strings (...). Lists, or a ragged tensor, may have rows of different lengths.

        A row is read up to its first end or padding id; or, with `lengths` (...), integers, as many ids of it as these
        say, and ends and padding among them are left out: a chat has an end behind each message, and its text is
        `detokenize(result["tokens"], lengths=result["lengths"])`.

        Start and other control ids are left out, and special tokens unless `skip_special_tokens` is False. Ids outside
        the vocabulary read as the unknown id does, if there is one, so that one bad row does not fail a batch.
        """
        tf = needed("tensorflow", self.name)

        ids, real = _id_tensor(ids)
        if not ids.dtype.is_integer or not ids.shape.rank:
            raise ValueError(
                f"{self.name}.detokenize takes integer ids of shape (..., T), of known rank. "
                f"Received: {ids.dtype.name} of shape {ids.shape}"
            )
        # int64 first: an id that is too large for int32 would come out of the cast as some other.
        ids = tf.cast(ids, tf.int64)
        shape = tf.shape(ids)
        rows = tf.reshape(ids, [tf.reduce_prod(shape[:-1]), shape[-1]])  # (B, T) or (B * N, T)
        if lengths is None:
            stops = functools.reduce(operator.or_, (rows == id for id in self.stop_ids()), tf.zeros_like(rows, tf.bool))
            read = tf.cumsum(tf.cast(stops, tf.int32), axis=1) == 0
        else:
            read = tf.range(shape[-1]) < self._length_tensor(lengths, ids.shape[:-1])
        known = (rows >= 0) & (rows < self.vocabulary_size)
        rows = tf.cast(tf.where(known, rows, self.unk_id or 0), tf.int32)
        hidden = self.hidden_ids(skip_special_tokens)
        kept = read & ~tf.gather(hidden, rows)
        if self.unk_id is None:
            kept = kept & known
        if real is not None:
            kept = kept & tf.reshape(real, tf.shape(kept))
        counts = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)  # of int64, LiteRT's operation makes empty texts
        pieces = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(rows, kept), counts, validate=False)
        if self.special_tokens and not skip_special_tokens:
            texts = decode_with(self.special_tokens, self.first_special_id, pieces, self.decode, self.joint)
        else:
            texts = self.decode(pieces)
        texts = tf.reshape(texts, shape[:-1])
        texts.set_shape(ids.shape[:-1])
        return texts

    def compute_output_spec(self, strings):
        self._check_strings(strings.shape, strings.dtype)
        return keras.KerasTensor((strings.shape[0], None), dtype="int32")

    def get_config(self):
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "add_start": self.add_start,
            "add_end": self.add_end,
            "special_tokens": list(self.special_tokens),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)  # Keras' own makes a TypeError of a ValueError

    def _string_tensor(self, strings):
        tf = needed("tensorflow", self.name)

        try:
            strings = tf.convert_to_tensor(strings, tf.string)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name} takes strings of shape (B,). Received: {strings!r}") from error
        if strings.shape.rank is None:
            strings = tf.ensure_shape(strings, [None])
        self._check_strings(strings.shape, strings.dtype.name)
        return strings

    def _length_tensor(self, lengths, shape):
        """The lengths of rows, int32, of shape (R, 1); ValueError unless they are integers of the rows' shape."""
        tf = needed("tensorflow", self.name)

        lengths = tf.convert_to_tensor(lengths)
        if not lengths.dtype.is_integer or not lengths.shape.is_compatible_with(shape):
            raise ValueError(
                f"{self.name}.detokenize takes as lengths integers of the shape of its rows, {shape}. "
                f"Received: {lengths.dtype.name} of shape {lengths.shape}"
            )
        return tf.reshape(tf.cast(lengths, tf.int32), [-1, 1])

    def _check_strings(self, shape, dtype):
        if len(shape) != 1 or dtype != "string":
            raise ValueError(
                f"{self.name} takes strings of shape (B,), in a functional model keras.Input((), "
                f"dtype='string'). Received: {dtype} of shape {tuple(shape)}"
            )


def _id_tensor(ids) -> tuple:
    """Ids as a tensor (..., T), and, where rows differ in length, which of it are theirs, else None."""
    tf = needed("tensorflow", "detokenize")

    if isinstance(ids, list | tuple):
        try:
            ids = np.asarray(ids)
        except ValueError:  # rows of different lengths
            ids = tf.ragged.constant(ids)
        else:
            ids = ids if ids.size else ids.astype(np.int32)  # NumPy makes floats of nothing
    if isinstance(ids, tf.RaggedTensor):
        return ids.to_tensor(), tf.ones_like(ids, tf.bool).to_tensor()
    return tf.convert_to_tensor(ids), None
