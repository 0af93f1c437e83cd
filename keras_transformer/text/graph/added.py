"""Tokens that are cut out of a text before anything else is done with it, and put back among its pieces."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_transformer.text.graph.probing import white_space
from keras_transformer.text.graph.strings import Lookup, NotInTheGraph, cut, escaped, ranges


def cutting(tokens: Sequence[Mapping], owner: str) -> Callable:
    """The function of strings (N,) to their parts (N, None), and the id of each that is a token, else -1.

    Args:
        tokens: Of each what a `tokenizer.json` says of it: "id", "content", "single_word", "lstrip", "rstrip".
        owner: The name of the tokenizer, for what is missing.
    """
    tokens = [token for token in tokens if token["content"]]
    if any(token["single_word"] for token in tokens):
        raise NotInTheGraph("an added token with single_word=True")
    if not tokens:
        return _whole
    longest_first = sorted((token["content"] for token in tokens), key=lambda content: -len(content.encode()))
    pattern = "|".join(map(escaped, longest_first))
    find = Lookup({token["content"]: token["id"] for token in tokens}, owner)
    takes_left, takes_right = (
        np.array([token["id"] for token in tokens if token[side]], np.int32) for side in ("lstrip", "rstrip")
    )
    spaces = f"[{ranges(white_space())}]+" if len(takes_left) + len(takes_right) else None

    def parts(strings):
        import tensorflow as tf

        found = cut(strings, pattern)
        numbers = find(found.values)
        if spaces is None:
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


def with_tokens(pieces, ids):
    """Pieces (N, None), in place of which ids (N,) stand where they are none of -1."""
    import tensorflow as tf

    is_token = ids >= 0
    own = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, is_token), tf.cast(is_token, tf.int64), validate=False)
    return tf.concat([own, pieces], axis=1)
