"""A `tokenizer.json` as operations of the TensorFlow graph, so that a SavedModel takes and gives strings.

The steps are those of the `tokenizers` package: special tokens are cut out, what is between them is normalized, cut
into words, and the words into pieces. What cannot be done exactly so is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_transformer.text.graph.added import cutting, with_tokens
from keras_transformer.text.graph.decoding import decoder
from keras_transformer.text.graph.merges import byte_pairs
from keras_transformer.text.graph.normalization import normalizer
from keras_transformer.text.graph.pieces import word_pieces
from keras_transformer.text.graph.strings import NotInTheGraph, valid
from keras_transformer.text.graph.words import pre_tokenizer


class GraphTokenizer:
    """The steps of a definition, compiled.

    Args:
        definition: The text of a `tokenizer.json`.
        fast: The same as a `tokenizers.Tokenizer`.
        vocabulary: The tokens by id.
        owner: The name of the tokenizer, for what is missing.

    Raises: NotInTheGraph, with the part of the definition that is not done here.
    """

    def __init__(self, definition: str, fast, vocabulary: Sequence[str], owner: str):
        content = json.loads(definition)
        self._normalize = normalizer(content.get("normalizer"))
        self._words = pre_tokenizer(content.get("pre_tokenizer"))
        self._pieces = _model(content, owner)
        added = content.get("added_tokens", ())
        raw = [token for token in added if not token["normalized"]]
        self._cut_raw = cutting(raw, owner)
        others = [token for token in added if token["normalized"]]
        change = fast.normalizer.normalize_str if fast.normalizer else str
        others = [{**token, "content": change(token["content"])} for token in others]
        self._cut_normalized = cutting(others, owner)
        spelt = {token["id"]: token["content"] for token in others}  # such tokens read as they are found
        self._decode = decoder(content.get("decoder"), [spelt.get(id, x) for id, x in enumerate(vocabulary)])
        self._is_token = np.array([token != "" for token in vocabulary])

    def encode(self, strings):
        """Strings (B,) to ids, a `tf.RaggedTensor` (B, None), int32."""
        import tensorflow as tf

        parts, ids = self._cut_raw(valid(strings))
        begins = _begins(parts)
        texts = tf.where(ids < 0, parts.values, "")
        normal, inner = self._cut_normalized(self._normalize(texts))
        begins = tf.gather(begins, normal.value_rowids()) & _begins(normal)
        words = self._words(tf.where(inner < 0, normal.values, ""), begins)
        pieces = words.with_values(tf.cast(self._pieces(words.values), tf.int32).with_row_splits_dtype(tf.int64))
        pieces = with_tokens(pieces.merge_dims(1, 2), inner)
        pieces = with_tokens(normal.with_values(pieces).merge_dims(1, 2), ids)
        return parts.with_values(pieces).merge_dims(1, 2)

    def decode(self, ids):
        """Ids, a `tf.RaggedTensor` (B, None), to strings (B,)."""
        import tensorflow as tf

        return self._decode(tf.ragged.boolean_mask(ids, ids.with_values(tf.gather(self._is_token, ids.values))))


def _model(content: Mapping, owner: str) -> Callable:
    """The function of words to pieces for what stands under "model"."""
    model, pre = content["model"], content.get("pre_tokenizer") or {}
    kinds = [x["type"] for x in pre.get("pretokenizers", [pre] if pre else [])]
    if model["type"] == "WordPiece" and kinds == ["BertPreTokenizer"]:
        return word_pieces(model, owner)
    if model["type"] == "BPE":
        if kinds.count("ByteLevel") > 1:
            raise NotInTheGraph(f"the pre-tokenizers {kinds}")
        return byte_pairs(model, kinds[-1:] == ["ByteLevel"], owner)
    raise NotInTheGraph(f"the model {model['type']} behind the pre-tokenizers {kinds}")


def _begins(parts):
    """Which of all parts are the first of their text."""
    import tensorflow as tf

    rows = parts.value_rowids()
    return tf.range(tf.size(rows, tf.int64)) == tf.gather(parts.row_splits, rows)
