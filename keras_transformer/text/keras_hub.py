"""KerasHub's tokenizers, as they are, in the form in which ours come: padded ids, and ids read up to their end."""

import sys

import numpy as np

from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer_runtime.packages import needed


def as_tokenizer(tokenizer, model=None):
    """A tokenizer of KerasHub as a `Tokenizer`; any other, and None, comes back as it is.

    What starts, ends and pads a text is not known to most tokenizers of KerasHub, but to the generator that is used
    with it: `detokenize` leaves out the `start_token` of `model` and ends a row at its `end_token`, one or several, and
    `padding_id`, if it has them.

    Raises: ValueError if it gives no ids, or gives a text the id of padding.
    """
    # Whoever has such a tokenizer has imported the package; nobody else should have to.
    keras_hub = sys.modules.get("keras_hub")
    if keras_hub is None or not isinstance(tokenizer, keras_hub.tokenizers.Tokenizer):
        return tokenizer
    return _KerasHubTokenizer(
        tokenizer,
        start_id=getattr(model, "start_token", None),
        end_ids=getattr(model, "end_token", None),
        pad_id=getattr(model, "padding_id", Tokenizer.pad_id),
    )


class _KerasHubTokenizer(Tokenizer):
    """KerasHub runs Python code outside of graphs and TensorFlow's in graphs; a verified export compares the two."""

    def __init__(self, tokenizer, *, start_id: int | None, end_ids, pad_id: int | None):
        _check(tokenizer, pad_id)
        super().__init__(name=tokenizer.name)
        self.start_id, self.pad_id = start_id, pad_id
        self._end_ids = () if end_ids is None else tuple(np.ravel(end_ids).tolist())
        self.end_id = self._end_ids[0] if self._end_ids else None
        # KerasHub has no unknown id in common, so what is outside the vocabulary is left out, as control ids are.
        self.unk_id = next((id for id in (pad_id, *self._end_ids, start_id) if id is not None), 0)
        self.tokenizer = tokenizer
        self.built = True

    def stop_ids(self):
        return [*self._end_ids, *([] if self.pad_id is None else [self.pad_id])]

    def is_control(self):
        return np.isin(
            np.arange(self.vocabulary_size), [*self.stop_ids(), *([] if self.start_id is None else [self.start_id])]
        )

    @property
    def vocabulary_size(self) -> int:
        return self.tokenizer.vocabulary_size()

    def encode(self, strings):
        tf = needed("tensorflow", self.name)

        ids = self.tokenizer(strings)
        if isinstance(ids, list):
            ids = tf.ragged.constant(ids, ragged_rank=1, dtype=tf.int32)
        elif not isinstance(ids, tf.RaggedTensor):  # of a tokenizer with a sequence_length
            padding = getattr(self.tokenizer, "pad_token_id", None) or 0
            ids = tf.RaggedTensor.from_tensor(tf.convert_to_tensor(ids), padding=padding)
        ids = tf.cast(ids, tf.int32)
        return tf.ragged.boolean_mask(ids, ids >= 0)  # -1 is a byte that a BytePairTokenizer does not have

    def decode(self, ids):
        tf = needed("tensorflow", self.name)

        return tf.convert_to_tensor(self.tokenizer.detokenize(ids.with_row_splits_dtype(tf.int64)), tf.string)


def _check(tokenizer, pad_id: int | None) -> None:
    """Refuse what gives no ids, or gives a text the id that is padding to the model."""
    if tokenizer.compute_dtype == "string":
        raise ValueError(f"{tokenizer.name} gives pieces, not ids. Make it with dtype='int32'.")
    if tokenizer.vocabulary_size() is None:
        raise ValueError(f"{tokenizer.name} does not know its vocabulary_size. Make it with vocabulary_size=...")
    if pad_id is None:
        return
    padding = getattr(tokenizer, "pad_token_id", None)
    if padding and padding != pad_id and getattr(tokenizer, "sequence_length", None):
        raise ValueError(
            f"{tokenizer.name} pads with id {padding}, but here padding is id {pad_id}. Make it without "
            "sequence_length."
        )
    (text,) = tokenizer.detokenize([[pad_id]])
    if text in ("[PAD]", "<pad>", *tokenizer.special_tokens):
        text = ""
    # The last character is one for private use, in no vocabulary, so that an unknown id shows, too.
    ids = np.asarray(tokenizer([f"{text} \U000f0000"])[0])
    if pad_id in np.trim_zeros(ids - pad_id, "b") + pad_id or (ids.size and (ids == pad_id).all()):
        raise ValueError(
            f"{tokenizer.name} gives id {pad_id} to {text or 'unknown characters'!r}, but here id {pad_id} is padding. "
            "Give the model's TokenEmbedding another padding_id, or None; or put a padding token there in the "
            "vocabulary: with SentencePiece, train with pad_id=0 and the other ids after it."
        )
