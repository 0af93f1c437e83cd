"""What the `tokenizers` package does to each character, found by asking it.

Its tables are of another version of Unicode than those of TensorFlow, of RE2 and of Python; so they are read off, all
1,112,064 characters, which takes a third of a second a question. A set of characters is an array (0x110000,) of bool.
"""

import functools
from collections.abc import Iterator

import numpy as np

from keras_transformer.text.graph.strings import NotInTheGraph

_CHUNK = 65536
COUNT = 0x110000


def characters() -> np.ndarray:
    """All code points that are one, so none of the halves (surrogates)."""
    all_of_them = np.ones(COUNT, bool)
    all_of_them[0xD800:0xE000] = False
    return all_of_them


def as_set(text) -> np.ndarray:
    """The set of given characters."""
    found = np.zeros(COUNT, bool)
    found[[ord(x) for x in text]] = True
    return found


def outcomes(normalize, before: str = "", behind: str = "") -> dict[str, str]:
    """What a function of strings makes of each character that it does not leave alone, each by itself, or between
    others."""
    between = next((x for x in "\u2603\u4e00x0" if normalize(x + x) == x + x), None)
    if between is None:
        raise NotInTheGraph("a normalizer that changes every character")
    changed = {}
    for chunk in _chunks():
        chunk = chunk.replace(between, "")
        texts = [before + x + behind for x in chunk] if before or behind else chunk
        text = between.join(texts)
        new = normalize(text)
        if new == text:
            continue
        parts = new.split(between)
        if len(parts) != len(chunk):
            raise NotInTheGraph("a normalizer that does not go character by character")
        changed.update((x, part) for x, part in zip(texts, parts, strict=True) if x != part)
    return changed


@functools.cache
def matching(atom: str) -> np.ndarray:
    """The characters that match an atom of a regular expression, a class or a case-insensitive letter."""
    from tokenizers import Regex, normalizers

    return as_set(outcomes(normalizers.Replace(Regex(atom), "").normalize_str))


@functools.cache
def numeric() -> np.ndarray:
    """The characters that `Digits` sets apart."""
    from tokenizers import pre_tokenizers

    return _apart(pre_tokenizers.Digits(individual_digits=True))


@functools.cache
def punctuation() -> np.ndarray:
    """The characters that `Punctuation` sets apart."""
    from tokenizers import pre_tokenizers

    return _apart(pre_tokenizers.Punctuation("isolated"))


@functools.cache
def white_space() -> np.ndarray:
    """The characters that words end at."""
    from tokenizers import pre_tokenizers

    kept = np.zeros(COUNT, bool)
    for piece in _pieces(pre_tokenizers.WhitespaceSplit()):
        kept[np.frombuffer(piece.encode("utf-32-le"), np.uint32)] = True
    return characters() & ~kept


def _apart(pre_tokenizer) -> np.ndarray:
    # Between two letters, what is set apart is a piece by itself.
    return as_set({x for x in _pieces(pre_tokenizer) if len(x) == 1})


def _pieces(pre_tokenizer) -> Iterator[str]:
    for chunk in _chunks():
        text = "xx".join(["", *chunk, ""])
        yield from (piece for piece, _ in pre_tokenizer.pre_tokenize_str(text))


@functools.cache
def _chunks() -> list[str]:
    """All characters, in texts of which none is too long."""
    firsts = range(0, COUNT, _CHUNK)
    return ["".join(chr(x) for x in range(first, first + _CHUNK) if not 0xD800 <= x < 0xE000) for first in firsts]
