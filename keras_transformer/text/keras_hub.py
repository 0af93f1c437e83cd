"""KerasHub's tokenizers, as they are, in the form in which ours come: padded ids, and ids read up to their end."""

import sys

import numpy as np

from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer_runtime.packages import needed


def as_tokenizer(tokenizer, model=None, *, check: bool = True):
    """A tokenizer of KerasHub as a `Tokenizer`; any other, and None, comes back as it is.

    What starts and ends a text is not known to most tokenizers of KerasHub, but to the generator that is used with
    it: `detokenize` leaves out the `start_token` of `model` and ends a row at its `end_token`, if it has them.
    """
    # Whoever has such a tokenizer has imported the package; nobody else should have to.
    keras_hub = sys.modules.get("keras_hub")
    if keras_hub is None or not isinstance(tokenizer, keras_hub.tokenizers.Tokenizer):
        return tokenizer
    if check:
        _check(tokenizer)
    return _KerasHubTokenizer(tokenizer, getattr(model, "start_token", None), getattr(model, "end_token", None))


class _KerasHubTokenizer(Tokenizer):
    """KerasHub runs Python code outside of graphs and TensorFlow's in graphs; a verified export compares the two."""

    # KerasHub has no unknown id in common, so what is outside the vocabulary is left out, as control ids are.
    unk_id = Tokenizer.pad_id

    def __init__(self, tokenizer, start_id: int | None, end_id: int | None):
        super().__init__(name=tokenizer.name)
        self.start_id = self.pad_id if start_id is None else start_id
        self.end_id = self.pad_id if end_id is None else end_id
        self.tokenizer = tokenizer
        self.built = True

    @property
    def vocabulary_size(self) -> int:
        return self.tokenizer.vocabulary_size()

    def encode(self, strings):
        tf = needed("tensorflow", self.name)

        ids = self.tokenizer(strings)
        if isinstance(ids, list):
            ids = tf.ragged.constant(ids, ragged_rank=1, dtype=tf.int32)
        elif not isinstance(ids, tf.RaggedTensor):  # of a tokenizer with a sequence_length
            ids = tf.RaggedTensor.from_tensor(tf.convert_to_tensor(ids))
        ids = tf.cast(ids, tf.int32)
        return tf.ragged.boolean_mask(ids, ids >= 0)  # -1 is a byte that a BytePairTokenizer does not have

    def decode(self, ids):
        tf = needed("tensorflow", self.name)

        return tf.convert_to_tensor(self.tokenizer.detokenize(ids.with_row_splits_dtype(tf.int64)), tf.string)


def _check(tokenizer) -> None:
    """Refuse what gives no ids, or gives a text the id 0, which is padding to every model of this package."""
    if tokenizer.compute_dtype == "string":
        raise ValueError(f"{tokenizer.name} gives pieces, not ids. Make it with dtype='int32'.")
    if tokenizer.vocabulary_size() is None:
        raise ValueError(f"{tokenizer.name} does not know its vocabulary_size. Make it with vocabulary_size=...")
    padding = getattr(tokenizer, "pad_token_id", None)
    if padding and getattr(tokenizer, "sequence_length", None):
        raise ValueError(
            f"{tokenizer.name} pads with id {padding}, but here padding is id 0. Make it without sequence_length."
        )
    (zero,) = tokenizer.detokenize([[0]])
    if zero in ("[PAD]", "<pad>", *tokenizer.special_tokens):
        zero = ""
    # The last character is one for private use, in no vocabulary, so that an unknown id shows, too.
    ids = np.asarray(tokenizer([f"{zero} \U000f0000"])[0])
    if 0 in np.trim_zeros(ids, "b") or (ids.size and not ids.any()):
        raise ValueError(
            f"{tokenizer.name} gives id 0 to {zero or 'unknown characters'!r}, but here id 0 is padding. Put a padding "
            "token first in its vocabulary; with SentencePiece, train with pad_id=0 and the other ids after it."
        )
