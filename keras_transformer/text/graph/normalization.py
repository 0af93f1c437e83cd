"""Normalizers of a `tokenizer.json` in the graph: functions of strings (N,) to strings (N,).

What a normalizer does to each character by itself is read off the `tokenizers` package. What goes beyond a character is
the order of combining marks, which is a stable sort, and composition, which TensorFlow Text does; the characters that
its Unicode knows otherwise are kept away from it.
"""

import functools
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_transformer.text.graph.patterns import translated
from keras_transformer.text.graph.probing import COUNT, as_set, outcomes
from keras_transformer.text.graph.strings import NotInTheGraph, cut, escaped, ranges, rewrite
from keras_transformer_runtime.packages import needed


def normalizer(settings: Mapping | None) -> Callable:
    """The function for what stands under "normalizer"."""
    if settings is None:
        return lambda strings: strings
    kind = settings["type"]
    if kind == "Sequence":
        return _sequence([normalizer(x) for x in settings["normalizers"]])
    if kind == "Replace":
        ((form, text),) = settings["pattern"].items()
        pattern = translated(text) if form == "Regex" else None
        if pattern is not None and pattern.before:
            raise NotInTheGraph(f"the normalizer Replace with the lookahead in {text!r}")
        return _replacing(escaped(text) if pattern is None else pattern.pattern, rewrite(settings["content"]))
    if kind == "Prepend":
        return _replacing(r"(?s)^(.+)$", rewrite(settings["prepend"]) + r"\1", everywhere=False)
    if kind == "Strip":
        from keras_transformer.text.graph.probing import white_space

        spaces = f"[{ranges(white_space())}]+"
        sides = [f"^{spaces}"] * settings["strip_left"] + [f"{spaces}$"] * settings["strip_right"]
        return _replacing("|".join(sides), "") if sides else normalizer(None)
    if kind == "Lowercase":
        return _character_by_character(_normalizers().Lowercase())
    if kind == "NFD":
        return _sequence([_character_by_character(_normalizers().NFD()), _ordered])
    if kind == "NFC":
        return _composed()
    if kind == "StripAccents":
        return _character_by_character(_normalizers().StripAccents())
    if kind == "BertNormalizer":
        return _bert(settings)
    raise NotInTheGraph(f"the normalizer {kind}")


def _normalizers():
    return needed("tokenizers", "A tokenizer of a checkpoint").normalizers


def _sequence(steps: Sequence[Callable]) -> Callable:
    return lambda strings: functools.reduce(lambda found, step: step(found), steps, strings)


def _replacing(pattern: str, by: str, everywhere: bool = True) -> Callable:
    def replace(strings):
        import tensorflow as tf

        return tf.strings.regex_replace(strings, pattern, by, replace_global=everywhere)

    return replace


def _bert(settings: Mapping) -> Callable:
    normalizers = _normalizers()
    clean, accents = settings.get("clean_text", True), settings.get("strip_accents")
    lower = settings.get("lowercase", True)
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    steps = []
    if clean:
        steps.append(_character_by_character(normalizers.BertNormalizer(**{**off, "clean_text": True})))
    if settings.get("handle_chinese_chars", True):
        steps.append(_character_by_character(normalizers.BertNormalizer(**{**off, "handle_chinese_chars": True})))
    if lower if accents is None else accents:
        strip = normalizers.BertNormalizer(**{**off, "strip_accents": True})
        # Decomposed, in order, and then without the marks that do not take up space.
        steps += [
            normalizer({"type": "NFD"}),
            _mapped({x: y for x, y in outcomes(strip.normalize_str).items() if not y}),
        ]
    if lower:
        steps.append(_character_by_character(normalizers.BertNormalizer(**{**off, "lowercase": True})))
    return _sequence(steps)


def _character_by_character(own) -> Callable:
    return _mapped(outcomes(own.normalize_str))


def _mapped(changed: Mapping[str, str]) -> Callable:
    """Each character that is a key replaced by its value: by a regular expression where many are by the same, by a
    search where not."""
    removed, spaces = as_set(x for x, y in changed.items() if not y), as_set(x for x, y in changed.items() if y == " ")
    apart = as_set(x for x, y in changed.items() if y == f" {x} ")
    others = {x: y for x, y in changed.items() if y not in ("", " ", f" {x} ")}
    steps = [
        _replacing(f"[{ranges(members)}]" if by != r" \1 " else f"([{ranges(members)}])", by)
        for members, by in ((removed, ""), (spaces, " "), (apart, r" \1 "))
        if members.any()
    ]
    if not others:
        return _sequence(steps)
    keys = np.array(sorted(map(ord, others)), np.int32)
    values = [[ord(x) for x in others[chr(key)]] for key in keys]
    lengths = np.array([len(x) for x in values], np.int64)
    starts = np.cumsum(lengths) - lengths
    values = np.array([x for value in values for x in value], np.int32)

    def substitute(strings):
        import tensorflow as tf

        codes = tf.strings.unicode_decode(strings, "UTF-8")
        flat = codes.values
        places = tf.minimum(tf.searchsorted(keys, flat), len(keys) - 1)
        hit = tf.gather(keys, places) == flat
        counts = tf.where(hit, tf.gather(lengths, places), 1)
        rows = tf.repeat(tf.range(tf.size(flat)), counts)
        within = tf.range(tf.size(rows, tf.int64)) - tf.repeat(tf.cumsum(counts) - counts, counts)
        found = tf.gather(
            values, tf.where(tf.gather(hit, rows), tf.gather(tf.gather(starts, places), rows) + within, 0)
        )
        new = tf.where(tf.gather(hit, rows), found, tf.gather(flat, rows))
        pieces = tf.RaggedTensor.from_row_lengths(new, counts, validate=False)
        return tf.strings.unicode_encode(codes.with_values(pieces).merge_dims(1, 2), "UTF-8")

    return _sequence([*steps, substitute])


@functools.cache
def _classes() -> tuple[np.ndarray, np.ndarray]:
    """The characters that combine, as code points, and their classes: of those that the package puts in order."""
    decompose = _normalizers().NFD().normalize_str
    moved = []
    for code in range(COUNT):
        order = 0 if 0xD800 <= code < 0xE000 else unicodedata.combining(chr(code))
        low, high = ("\u0334", 1), ("\u0345", 240)  # one in front of which, and one behind which it has to move
        probe = low if order > 1 else high
        text = chr(code) + probe[0] if probe is low else probe[0] + chr(code)
        if order and (code == ord("\u0345") or decompose("a" + text) == "a" + text[::-1]):
            moved.append((code, order))
    codes, orders = zip(*moved, strict=True)
    return np.array(codes, np.int32), np.array(orders, np.int32)


def _ordered(strings):
    """Combining marks in their canonical order: stable, by class, between two characters that do not combine."""
    import tensorflow as tf

    combining, orders = _classes()
    codes = tf.strings.unicode_decode(strings, "UTF-8")
    flat = codes.values
    places = tf.minimum(tf.searchsorted(combining, flat), len(combining) - 1)
    order = tf.where(tf.gather(combining, places) == flat, tf.gather(orders, places), 0)
    begins = tf.scatter_nd(
        tf.expand_dims(codes.row_splits, 1), tf.ones_like(codes.row_splits, tf.int32), [tf.size(flat, tf.int64) + 1]
    )[:-1]
    group = tf.cumsum(tf.cast((order == 0) | (begins > 0), tf.int64))
    flat = tf.gather(flat, tf.argsort(group * 256 + tf.cast(order, tf.int64), stable=True))
    return tf.strings.unicode_encode(codes.with_values(flat), "UTF-8")


def _composed() -> Callable:
    """NFC, by TensorFlow Text, but for the characters that its version of Unicode knows otherwise."""
    tf, tensorflow_text = (needed(name, "A tokenizer with NFC") for name in ("tensorflow", "tensorflow_text"))

    others = _known_otherwise()
    pattern = f"[{ranges(others)}]+"

    def compose(strings):
        if not others.any():
            return tensorflow_text.normalize_utf8(strings, "NFC")
        parts = cut(strings, pattern)
        new = tensorflow_text.normalize_utf8(parts.values, "NFC")
        kept = tf.strings.regex_full_match(parts.values, pattern)
        return tf.strings.reduce_join(parts.with_values(tf.where(kept, parts.values, new)), axis=-1)

    return compose


@functools.cache
def _known_otherwise() -> np.ndarray:
    """The characters that TensorFlow Text normalizes and `tokenizers` does not, as they are in newer versions of
    Unicode; `NotInTheGraph` if it is the other way around for one."""
    tf, tensorflow_text = (needed(name, "A tokenizer with NFC") for name in ("tensorflow", "tensorflow_text"))
    decompose = _normalizers().NFD().normalize_str

    def theirs(text: str) -> str:
        with tf.init_scope(), tf.device("CPU:0"):
            return tensorflow_text.normalize_utf8([text], "NFD").numpy()[0].decode()

    ours_by_character, theirs_by_character = outcomes(decompose), outcomes(theirs)
    taken = {part for parts in ours_by_character.values() for part in parts}
    added = {x: parts for x, parts in theirs_by_character.items() if x not in ours_by_character}
    # A new character is kept away, and of its parts those that are new, too, so that they do not become it.
    news = [[part for part in parts if part not in taken] for parts in added.values()]
    if not all(news) or any(theirs_by_character.get(x) != parts for x, parts in ours_by_character.items()):
        raise NotInTheGraph("the normalizer NFC, which TensorFlow Text does otherwise")
    found = {*added, *(part for new in news for part in new)}
    for around in ({"before": "\u0345"}, {"behind": "\u0334"}):  # what moves in front of a mark, or lets one pass
        ours_by_character, theirs_by_character = outcomes(decompose, **around), outcomes(theirs, **around)
        moved = theirs_by_character.items() - ours_by_character.items()
        found |= {text.strip("\u0345\u0334") for text, _ in moved if len(text) == 2} - {""}
    return as_set(found)
