"""Byte-pair encoding in the graph: words to the ids of their pieces.

Of all neighbours in a word the pair that was learned first is put together, again and again: arg min over i of
rank(x_i, x_{i+1}) ("Neural Machine Translation of Rare Words with Subword Units", https://arxiv.org/abs/1508.07909).
All words of all texts go at once, in one flat row. Shapes: W words.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from keras_transformer.text.graph.bytes import byte_alphabet
from keras_transformer.text.graph.strings import MARK, Lookup, NotInTheGraph

_NONE = np.int32(2**31 - 1)
_SPACE = "\u2581"
_ACROSS = re.compile(f"[^{_SPACE}]{_SPACE}")  # a piece of more than one word


def byte_pairs(model: Mapping, is_byte_level: bool, owner: str) -> Callable:
    """The function of words (W,) to ids, a `tf.RaggedTensor` (W, None), for a model of type BPE."""
    suffix = model.get("end_of_word_suffix") or ""
    for setting in ("dropout", "continuing_subword_prefix", *([] if is_byte_level else ["end_of_word_suffix"])):
        if model.get(setting):
            raise NotInTheGraph(f"the model BPE with {setting}={model[setting]!r}")
    vocabulary = model["vocab"]
    symbols = _bytes(vocabulary, suffix, model.get("unk_token")) if is_byte_level else _characters(model, owner)
    merge = _merging(model)

    def merged(words):
        return merge(symbols(words))

    if not is_byte_level and _SPACE in vocabulary and not any(map(_ACROSS.search, vocabulary)):
        merged = _apart_at_spaces(merged)
    return _whole_words(merged, vocabulary, is_byte_level, owner) if model.get("ignore_merges") else merged


def _apart_at_spaces(merged: Callable) -> Callable:
    """The same for words that hold spaces, which no piece reaches across: a text of one word is many short ones then,
    and the loop ends sooner."""

    def pieces(words):
        import tensorflow as tf

        marked = tf.strings.regex_replace(words, f"([^{_SPACE}])({_SPACE})", rb"\1" + MARK + rb"\2")
        parts = tf.strings.split(marked, sep=MARK)
        return parts.with_values(merged(parts.values).with_row_splits_dtype(tf.int64)).merge_dims(1, 2)

    return pieces


def _whole_words(merged: Callable, vocabulary: Mapping[str, int], is_byte_level: bool, owner: str) -> Callable:
    """The same where a word that is a piece is that piece, whatever its merges would give."""
    alphabet = byte_alphabet()
    whole: Mapping[str, int] | Mapping[bytes, int] = vocabulary
    if is_byte_level:
        whole = {
            bytes(alphabet[x] for x in token): id
            for token, id in vocabulary.items()
            if all(x in alphabet for x in token)
        }
    find = Lookup(whole, owner)

    def pieces(words):
        import tensorflow as tf

        ids = find(words)
        known = ids >= 0
        one = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, known), tf.cast(known, tf.int64), validate=False)
        others = merged(tf.where(known, "", words)).with_row_splits_dtype(tf.int64)
        return tf.concat([one, others], axis=1)

    return pieces


def _bytes(vocabulary: Mapping[str, int], suffix: str, unknown: str | None) -> Callable:
    """Words to the ids of their bytes, the last of which may have a suffix. Without an unknown token, bytes that the
    vocabulary lacks are lost."""
    letters = sorted(byte_alphabet(), key=byte_alphabet().get)
    inside, last = (
        np.array([vocabulary.get(letter + end, -1) for letter in letters], np.int32) for end in ("", suffix)
    )
    lacking = np.flatnonzero((inside < 0) | (last < 0))
    if len(lacking) and unknown is not None:
        raise NotInTheGraph(f"a vocabulary that lacks the bytes {lacking.tolist()[:8]}, with an unknown token")

    def symbols(words):
        import tensorflow as tf

        pieces = tf.strings.bytes_split(words)
        values = tf.cast(tf.reshape(tf.io.decode_raw(pieces.values, tf.uint8), [-1]), tf.int32)
        ids = tf.gather(inside, values)
        if suffix:
            rows = pieces.value_rowids()
            ends = tf.concat([rows[1:] != rows[:-1], tf.ones_like(rows[:1], tf.bool)], 0)
            ids = tf.where(ends, tf.gather(last, values), ids)
        found = pieces.with_values(ids)
        return tf.ragged.boolean_mask(found, found.with_values(ids >= 0)) if len(lacking) else found

    return symbols


def _characters(model: Mapping, owner: str) -> Callable:
    """Words to the ids of their characters; of those that are not in the vocabulary the ids of their bytes, or the
    unknown id, once for neighbours."""
    vocabulary, unknown = model["vocab"], model.get("unk_token")
    single = Lookup({token: id for token, id in vocabulary.items() if len(token) == 1}, owner)
    table = np.array([vocabulary.get(f"<0x{byte:02X}>", -1) for byte in range(256)], np.int32)
    as_bytes = model.get("byte_fallback", False)
    if as_bytes and (table < 0).any() and (table >= 0).any():
        raise NotInTheGraph("a vocabulary that has some bytes, and not all")
    as_bytes = as_bytes and (table >= 0).all()
    unknown = vocabulary.get(unknown, -1) if unknown is not None else -1
    fuse = model.get("fuse_unk", False)

    def symbols(words):
        import tensorflow as tf

        characters = tf.strings.unicode_split(words, "UTF-8")
        ids = single(characters.values)
        if as_bytes:
            spelt = tf.strings.bytes_split(tf.where(ids < 0, characters.values, ""))
            values = tf.reshape(tf.io.decode_raw(spelt.values, tf.uint8), [-1])
            spelt = spelt.with_values(tf.gather(table, tf.cast(values, tf.int32)))
            known = ids >= 0
            one = tf.RaggedTensor.from_row_lengths(
                tf.boolean_mask(ids, known), tf.cast(known, tf.int64), validate=False
            )
            return characters.with_values(tf.concat([one, spelt], axis=1)).merge_dims(1, 2)
        found = characters.with_values(tf.where(ids < 0, unknown, ids))
        rows, lost = found.value_rowids(), ids < 0
        kept = ~lost if unknown < 0 else tf.ones_like(lost)
        if fuse and unknown >= 0:
            again = lost[1:] & lost[:-1] & (rows[1:] == rows[:-1])
            kept = ~tf.concat([tf.zeros_like(lost[:1]), again], 0)
        return tf.ragged.boolean_mask(found, found.with_values(kept))

    return symbols


def _merging(model: Mapping) -> Callable:
    """Ids of symbols (W, None) to ids of pieces (W, None)."""
    vocabulary = model["vocab"]
    count = 1 + max(vocabulary.values())
    pairs = {}
    for rank, pair in enumerate(model["merges"]):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        pairs[vocabulary[left] * count + vocabulary[right]] = (rank, vocabulary[left + right])
    if not pairs:
        return lambda symbols: symbols
    keys = np.array(sorted(pairs), np.int64)
    ranks = np.array([pairs[key][0] for key in keys.tolist()], np.int32)
    made = np.array([pairs[key][1] for key in keys.tolist()], np.int32)
    product = np.zeros(len(model["merges"]), np.int32)
    product[ranks] = made
    at_once = _learned_in_order(keys, ranks, made, count)

    def ranked(symbols, rows):
        import tensorflow as tf

        key = tf.cast(symbols[:-1], tf.int64) * count + tf.cast(symbols[1:], tf.int64)
        places = tf.minimum(tf.searchsorted(keys, key), len(keys) - 1)
        known = (tf.gather(keys, places) == key) & (rows[:-1] == rows[1:])
        return tf.where(known, tf.gather(ranks, places), _NONE)

    def merge(symbols):
        import tensorflow as tf

        words = symbols.nrows()

        def step(symbols, rows, rank):
            best = tf.math.unsorted_segment_min(rank, rows[:-1], words)
            chosen = (rank == tf.gather(best, rows[:-1])) & (rank < _NONE)
            places = tf.range(tf.size(rank))
            begins = chosen & ~tf.concat([[False], chosen[:-1]], 0)
            if at_once:  # every second one where they overlap, as in "aaa"
                firsts = tf.concat([tf.boolean_mask(places, begins), [0]], 0)
                run = tf.maximum(tf.cumsum(tf.cast(begins, tf.int32)) - 1, 0)
                chosen = chosen & ((places - tf.gather(firsts, run)) % 2 == 0)
            else:
                first = tf.math.unsorted_segment_min(tf.where(chosen, places, _NONE), rows[:-1], words)
                chosen = chosen & (places == tf.gather(first, rows[:-1]))
            new = tf.where(chosen, tf.gather(product, tf.where(chosen, rank, 0)), symbols[:-1])
            symbols = tf.concat([new, symbols[-1:]], 0)
            kept = tf.concat([[True], ~chosen], 0)
            symbols, rows = tf.boolean_mask(symbols, kept), tf.boolean_mask(rows, kept)
            return symbols, rows, ranked(symbols, rows)

        flat, rows = symbols.values, symbols.value_rowids()
        flat, rows, _ = tf.while_loop(
            lambda symbols, rows, rank: tf.reduce_any(rank < _NONE),
            step,
            (flat, rows, ranked(flat, rows)),
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        return tf.RaggedTensor.from_value_rowids(flat, rows, nrows=words, validate=False)

    return merge


def _learned_in_order(keys: np.ndarray, ranks: np.ndarray, made: np.ndarray, count: int) -> bool:
    """Whether no merge makes a part of one that was learned before it. Then a merge never brings about one that should
    have come before, and all places of the best pair are merged at once."""
    last = np.full(count, -1, np.int64)
    np.maximum.at(last, made, ranks)
    return bool((np.maximum(last[keys // count], last[keys % count]) < ranks).all())
