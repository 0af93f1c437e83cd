"""Strings in the graph: cut, looked up, told from what is no UTF-8; and sets of characters as RE2 has them.

No lookup tables: those are resources, which an export would have to track and initialize. A string is found by its
hash.
"""

from collections.abc import Mapping

import numpy as np

from keras_transformer_runtime.packages import needed

# What parts are told apart by: bytes that are not UTF-8, so that no text holds them.
MARK = b"\xff\xfe\xff"


class NotInTheGraph(Exception):
    """What a tokenizer's definition asks for and the graph cannot do exactly."""


def valid(strings):
    """Strings with U+FFFD in place of what is no UTF-8, as Python and Rust put it."""
    import tensorflow as tf

    return tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")


def cut(strings, pattern: str):
    """Strings (N,) to what matches a pattern and what is between, none of it empty: a `tf.RaggedTensor` (N, None)."""
    import tensorflow as tf

    marked = tf.strings.regex_replace(strings, f"({pattern})", MARK + rb"\1" + MARK)
    parts = tf.strings.split(marked, sep=MARK)
    return tf.ragged.boolean_mask(parts, parts != "")


def escaped(text: str) -> str:
    """A literal as RE2's patterns have it."""
    special = r"\.+*?()|[]{}^$-"
    return "".join(f"\\{x}" if x in special else x for x in text)


def rewrite(text: str) -> str:
    """A literal as what RE2 puts in place of a match."""
    return text.replace("\\", "\\\\")


def ranges(characters: np.ndarray) -> str:
    """A set of characters, (0x110000,) of bool, as the inside of one of RE2's classes."""
    edges = np.flatnonzero(np.diff(characters.astype(np.int8), prepend=0, append=0))
    firsts, lasts = edges[::2], edges[1::2] - 1
    return "".join(
        rf"\x{{{first:X}}}" if first == last else rf"\x{{{first:X}}}-\x{{{last:X}}}"
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
    )


class Lookup:
    """From strings to numbers, -1 for those that are not there: a binary search among hashes, and a comparison."""

    def __init__(self, numbers: Mapping[str, int] | Mapping[bytes, int], owner: str):
        tf = needed("tensorflow", owner)

        names = [name if isinstance(name, bytes) else name.encode() for name in numbers]
        with tf.init_scope(), tf.device("CPU:0"):
            hashes = _hashes(tf.constant(names, tf.string)).numpy()
        order = np.argsort(hashes, kind="stable")
        if len(np.unique(hashes)) < len(hashes):
            raise NotInTheGraph("two of its tokens have the same hash")
        self._hashes = hashes[order]
        self._names = np.array(names, object)[order]
        self._numbers = np.array(list(numbers.values()), np.int32)[order]

    def __call__(self, strings):
        import tensorflow as tf

        if not len(self._hashes):
            return tf.fill(tf.shape(strings), -1)
        places = tf.minimum(tf.searchsorted(self._hashes, _hashes(strings)), len(self._hashes) - 1)
        found = tf.gather(tf.constant(self._names.tolist(), tf.string), places) == strings
        return tf.where(found, tf.gather(self._numbers, places), -1)


def _hashes(strings):
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(strings, 2**62)
