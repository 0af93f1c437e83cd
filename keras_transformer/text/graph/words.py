"""Pre-tokenizers of a `tokenizer.json` in the graph: texts to words.

Each is a function of (strings (N,), is_first (N,): whether a string begins its text) to strings (N, None).
"""

from collections.abc import Callable, Mapping

from keras_transformer.text.graph.bytes import byte_alphabet
from keras_transformer.text.graph.patterns import Pattern, translated
from keras_transformer.text.graph.probing import matching, numeric, punctuation, white_space
from keras_transformer.text.graph.strings import MARK, NotInTheGraph, cut, escaped, ranges

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACE = r"\s"


def pre_tokenizer(settings: Mapping | None) -> Callable:
    """The function for what stands under "pre_tokenizer"."""
    if settings is None:
        return lambda strings, is_first: _one(strings)
    kind = settings["type"]
    if kind == "Sequence":
        parts = settings["pretokenizers"]
        if any(x.get("prepend_scheme") == "first" for x in parts[1:]):
            raise NotInTheGraph("the pre-tokenizer Metaspace with prepend_scheme 'first' behind another one")
        steps = []
        for place, part in enumerate(parts):
            steps.append(pre_tokenizer(part))
            if part["type"] == "ByteLevel" and place < len(parts) - 1:  # what follows sees bytes as characters
                steps.append(_spelt)
        return _sequence(steps)
    if kind == "ByteLevel":
        return _byte_level(settings)
    if kind == "Split":
        return _split(settings)
    if kind == "Digits":
        digits = f"[{ranges(numeric())}]"
        return _cutting(digits if settings.get("individual_digits") else digits + "+")
    if kind == "Punctuation":
        pattern = f"[{ranges(punctuation())}]"
        behaviors = {"Isolated": pattern, "Contiguous": pattern + "+"}
        if settings.get("behavior", "Isolated") in behaviors:
            return _cutting(behaviors[settings.get("behavior", "Isolated")])
    if kind == "WhitespaceSplit":
        return _removing(f"[{ranges(white_space())}]")
    if kind == "BertPreTokenizer":
        spaces, marks = _removing(f"[{ranges(white_space())}]"), _cutting(f"[{ranges(punctuation())}]")
        return _sequence([spaces, marks])
    if kind == "Metaspace":
        return _metaspace(settings)
    raise NotInTheGraph(f"the pre-tokenizer {kind}{settings if kind in ('Split', 'Punctuation') else ''}")


def _one(strings):
    import tensorflow as tf

    return tf.RaggedTensor.from_row_lengths(strings, tf.ones_like(tf.strings.length(strings), tf.int64))


def _sequence(steps) -> Callable:
    def words(strings, is_first):
        found = _one(strings)
        for step in steps:
            found = found.with_values(step(found.values, is_first)).merge_dims(1, 2)
        return found

    return words


def _cutting(pattern: str) -> Callable:
    return lambda strings, is_first: cut(strings, pattern)


def _removing(pattern: str) -> Callable:
    return _marking(pattern, MARK)


def _marking(pattern: str, by: bytes) -> Callable:
    """Cut where there are marks, which stand in or beside what takes the place of each match."""

    def words(strings, is_first):
        import tensorflow as tf

        parts = tf.strings.split(tf.strings.regex_replace(strings, f"({pattern})", by), sep=MARK)
        return tf.ragged.boolean_mask(parts, parts != "")

    return words


def _keeping(pattern: str) -> Callable:
    """What matches, without what is between."""

    def words(strings, is_first):
        import tensorflow as tf

        marked = tf.strings.regex_replace(strings, f"({pattern})", MARK + rb"\1" + MARK)
        parts = tf.strings.split(marked, sep=MARK)
        places = tf.range(tf.size(parts.values, tf.int64)) - tf.gather(parts.row_splits, parts.value_rowids())
        return tf.ragged.boolean_mask(parts, parts.with_values(places % 2 == 1))

    return words


def _spelt(strings, is_first):
    """Words as byte-level vocabularies spell them."""
    import tensorflow as tf

    letters = sorted(byte_alphabet(), key=byte_alphabet().get)
    pieces = tf.strings.bytes_split(strings)
    values = tf.reshape(tf.io.decode_raw(pieces.values, tf.uint8), [-1])
    return _one(tf.strings.reduce_join(pieces.with_values(tf.gather(letters, tf.cast(values, tf.int32))), axis=-1))


def _matching(pattern: Pattern) -> Callable:
    """Cut by a pattern of several kinds of words."""

    def words(strings, is_first):
        import tensorflow as tf

        if not pattern.before:
            return cut(strings, pattern.pattern)
        spaces, others = f"[{pattern.before}]", f"[^{ranges(matching(_SPACE))}]"
        marked = tf.strings.regex_replace(strings, f"({spaces})({spaces}{others})", rb"\1" + MARK + rb"\2")
        parts = tf.strings.split(marked, sep=MARK)
        return parts.with_values(cut(parts.values, pattern.pattern)).merge_dims(1, 2)

    return words


def _byte_level(settings: Mapping) -> Callable:
    split = _matching(translated(GPT2)) if settings.get("use_regex", True) else lambda strings, is_first: _one(strings)
    add_prefix_space = settings.get("add_prefix_space", True)

    def words(strings, is_first):
        import tensorflow as tf

        if add_prefix_space:
            strings = tf.where(
                tf.strings.regex_full_match(strings, "(?s) .*|"), strings, tf.strings.join([" ", strings])
            )
        return split(strings, is_first)

    return words


def _split(settings: Mapping) -> Callable:
    ((kind, text),) = settings["pattern"].items()
    pattern = translated(text) if kind == "Regex" else Pattern(escaped(text))
    removes = settings["behavior"] == "Removed"
    beside = {"MergedWithPrevious": rb"\1" + MARK, "MergedWithNext": MARK + rb"\1"}.get(settings["behavior"])
    if beside is not None and not settings["invert"] and not pattern.before:
        return _marking(pattern.pattern, beside)
    if settings["behavior"] not in ("Isolated", "Removed") or settings["invert"] and (not removes or pattern.before):
        raise NotInTheGraph(f"the pre-tokenizer Split with {settings['behavior']}, invert={settings['invert']}")
    if settings["invert"]:
        return _keeping(pattern.pattern)
    if removes:
        if pattern.before:
            raise NotInTheGraph("the pre-tokenizer Split that removes what a lookahead is part of")
        return _removing(f"(?:{pattern.pattern})")
    return _matching(pattern)


def _metaspace(settings: Mapping) -> Callable:
    mark, scheme = settings["replacement"], settings.get("prepend_scheme", "always")

    def words(strings, is_first):
        import tensorflow as tf

        strings = tf.strings.regex_replace(strings, " ", mark)
        if scheme != "never":
            begins = tf.strings.regex_full_match(strings, f"(?s){mark}.*")
            wanted = ~begins & is_first if scheme == "first" else ~begins
            strings = tf.where(wanted, tf.strings.join([mark, strings]), strings)
        if not settings.get("split", True):
            return _one(strings)
        parts = tf.strings.split(tf.strings.regex_replace(strings, mark, MARK + mark.encode()), sep=MARK)
        return tf.ragged.boolean_mask(parts, parts != "")

    return words
