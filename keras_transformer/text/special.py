"""Special tokens in the graph: strings that are one id each, cut out of a text before, and put back behind its pieces.

Shapes: B texts, N parts of all texts, a part being a special token or what stands between two.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from keras_transformer.text.corpus import has_surrogates

SPACE = "\u2581"  # with which SentencePiece's first piece of a word begins
# What parts are told apart by: bytes that are not UTF-8, so that no text holds them.
_MARK = b"\xff\xfe\xff"


def checked_tokens(tokens: Sequence[str], owner: str) -> tuple[str, ...]:
    """Special tokens as a tuple; ValueError unless they are strings, not empty, and each there once."""
    is_ordered = isinstance(tokens, Iterable) and not isinstance(tokens, str | set | frozenset)
    given = tuple(tokens) if is_ordered else (None,)
    if not all(isinstance(token, str) and token for token in given):
        raise ValueError(f"{owner} takes special_tokens as a list of strings that are not empty. Received: {tokens!r}")
    halves = [token for token in given if has_surrogates(token)]
    if halves:
        raise ValueError(f"{owner}: {halves} hold halves of characters (surrogates), which no UTF-8 text holds.")
    if len(set(given)) < len(given):
        raise ValueError(f"{owner} takes each special token once. Received: {list(given)}")
    return given


def encode_with(tokens: Sequence[str], first_id: int, strings, encode: Callable):
    """The ids of strings (B,), a `tf.RaggedTensor` (B, None): `encode` gives those of what is no special token."""
    import tensorflow as tf

    longest_first = sorted(tokens, key=len, reverse=True)
    pattern = f"({'|'.join(map(re.escape, longest_first))})"
    parts = tf.strings.split(tf.strings.regex_replace(strings, pattern, _MARK + rb"\1" + _MARK), sep=_MARK)  # (B, None)
    hits = tf.expand_dims(parts.values, 1) == tf.expand_dims(tf.constant(list(tokens)), 0)  # (N, tokens)
    is_token = tf.reduce_any(hits, axis=1)
    ids = first_id + tf.argmax(tf.cast(hits, tf.int32), axis=1, output_type=tf.int32)
    special = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, is_token), tf.cast(is_token, tf.int64))
    pieces = tf.cast(encode(tf.where(is_token, "", parts.values)), tf.int32).with_row_splits_dtype(tf.int64)
    return parts.with_values(tf.concat([special, pieces], axis=1)).merge_dims(1, 2)


def decode_with(tokens: Sequence[str], first_id: int, ids, decode: Callable, joint: str):
    """The strings (B,) of ids, a `tf.RaggedTensor` (B, None), with the special tokens among them, `joint` between the
    parts."""
    import tensorflow as tf

    rows, values = ids.value_rowids(), ids.values
    is_token = values >= first_id
    begins = (
        is_token | tf.concat([[False], is_token[:-1]], axis=0) | tf.concat([rows[:1] >= 0, rows[1:] > rows[:-1]], 0)
    )
    parts = tf.cumsum(tf.cast(begins, rows.dtype)) - 1  # in which part each id is
    count = tf.reduce_sum(tf.cast(begins, rows.dtype))
    between = tf.RaggedTensor.from_value_rowids(
        tf.boolean_mask(values, ~is_token), tf.boolean_mask(parts, ~is_token), nrows=count
    )
    names = tf.gather(list(tokens), tf.maximum(tf.boolean_mask(values, begins) - first_id, 0))
    texts = tf.where(tf.boolean_mask(is_token, begins), names, decode(between))
    texts = tf.RaggedTensor.from_value_rowids(texts, tf.boolean_mask(rows, begins), nrows=ids.nrows())
    return tf.strings.reduce_join(texts, axis=-1, separator=joint)
