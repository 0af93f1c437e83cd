"""A `tokenizer.json` as operations of the TensorFlow graph, so that a SavedModel takes and gives strings.

The steps are those of the `tokenizers` package: special tokens are cut out, what is between them is normalized, cut
into words, and the words into pieces. What cannot be done exactly so is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_transformer.text.graph.decoding import decoder
from keras_transformer.text.graph.merges import byte_pairs
from keras_transformer.text.graph.normalization import normalizer
from keras_transformer.text.graph.pieces import word_pieces
from keras_transformer.text.graph.probing import white_space
from keras_transformer.text.graph.strings import Lookup, NotInTheGraph, cut, escaped, ranges, valid
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
        self._cut_raw = _cutting(raw, {token["content"]: token["id"] for token in raw}, owner)
        others = [token for token in added if token["normalized"]]
        change = fast.normalizer.normalize_str if fast.normalizer else str
        others = [{**token, "content": change(token["content"])} for token in others]
        self._cut_normalized = _cutting(others, {token["content"]: token["id"] for token in others}, owner)
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
        pieces = _with_tokens(pieces.merge_dims(1, 2), inner)
        pieces = _with_tokens(normal.with_values(pieces).merge_dims(1, 2), ids)
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


def _cutting(tokens: Sequence[Mapping], ids: Mapping[str, int], owner: str) -> Callable:
    """Strings (N,) to their parts (N, None), and the id of each that is a token, else -1."""
    tokens = [token for token in tokens if token["content"]]
    if any(token["single_word"] for token in tokens):
        raise NotInTheGraph("an added token with single_word=True")
    if not tokens:
        return _whole
    longest_first = sorted((token["content"] for token in tokens), key=lambda content: -len(content.encode()))
    pattern = "|".join(map(escaped, longest_first))
    find = Lookup(ids, owner)
    takes_left, takes_right = (
        np.array([token["id"] for token in tokens if token[side]], np.int32) for side in ("lstrip", "rstrip")
    )
    spaces = f"[{ranges(white_space())}]+"

    def parts(strings):
        import tensorflow as tf

        found = cut(strings, pattern)
        numbers = find(found.values)
        if not len(takes_left) + len(takes_right):
            return found, numbers
        rows = found.value_rowids()
        same, no = rows[1:] == rows[:-1], tf.zeros_like(rows[:1], tf.bool)
        behind = tf.concat([no, _among(numbers, takes_right)[:-1] & same], 0)
        before = tf.concat([_among(numbers, takes_left)[1:] & same, no], 0)
        texts = tf.where(behind & (numbers < 0), tf.strings.regex_replace(found.values, f"^{spaces}", ""), found.values)
        texts = tf.where(before & (numbers < 0), tf.strings.regex_replace(texts, f"{spaces}$", ""), texts)
        there = texts != ""
        return tf.ragged.boolean_mask(found.with_values(texts), found.with_values(there)), tf.boolean_mask(
            numbers, there
        )

    return parts


def _among(ids, some: np.ndarray):
    import tensorflow as tf

    return tf.reduce_any(tf.expand_dims(ids, 1) == some, axis=1)


def _whole(strings):
    """Strings without tokens, in the form of those that have some."""
    import tensorflow as tf

    there = strings != ""
    parts = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(strings, there), tf.cast(there, tf.int64), validate=False)
    return parts, tf.fill(tf.shape(parts.values), -1)


def _begins(parts):
    """Which of all parts are the first of their text."""
    import tensorflow as tf

    rows = parts.value_rowids()
    return tf.range(tf.size(rows, tf.int64)) == tf.gather(parts.row_splits, rows)


def _with_tokens(pieces, ids):
    """Pieces (N, None), in place of which ids (N,) stand where they are none of -1."""
    import tensorflow as tf

    is_token = ids >= 0
    own = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, is_token), tf.cast(is_token, tf.int64), validate=False)
    return tf.concat([own, pieces], axis=1)
