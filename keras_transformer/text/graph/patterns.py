"""Regular expressions of the `tokenizers` package, which are Oniguruma's, in the language of RE2.

RE2 knows another version of Unicode and another white space, so classes are written out. It has no lookahead; the one
that is in use, `\\s+(?!\\S)`, leaves the last white space of a run to the word behind it. A text is cut there first: no
word reaches across that place, so its two sides are cut into words by themselves, and `\\s+` is enough.
"""

import re
from typing import NamedTuple

import numpy as np

from keras_transformer.text.graph.probing import COUNT, as_set, characters, matching
from keras_transformer.text.graph.strings import NotInTheGraph, escaped, ranges

_LOOKAHEAD = (r"\s+(?!\S)|\s+", r"\s+(?!\S)")
_NEWLINES = (r"\s*[\r\n]+", r"\s*[\r\n]", r"\s*[\r\n]|")
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v"}
_ATOM = re.compile(r"\\[pP]\{\^?\w+\}|\\[sSdDwW]|\\x\{[0-9A-Fa-f]+\}|\\u[0-9A-Fa-f]{4}|\\.|.", re.DOTALL)
_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??")


class Pattern(NamedTuple):
    """A pattern of RE2; `before`, if it is not empty, is a class of white space: a text is cut in front of the last one
    of a run of these, where something else follows."""

    pattern: str
    before: str = ""


def translated(pattern: str) -> Pattern:
    """The pattern in the language of RE2; `NotInTheGraph` if what it does cannot be said there exactly."""
    tail = next((tail for tail in _LOOKAHEAD if pattern == tail or pattern.endswith("|" + tail)), None)
    if tail is None:
        return Pattern(_Translation(pattern).whole())
    head = pattern.removesuffix(tail).removesuffix("|")
    newlines = next((part for part in (rf"|{x}" for x in _NEWLINES) if part in head), "")
    white_space = matching(r"\s") & ~as_set("\r\n" if newlines else "")
    translation = _Translation(head.replace(newlines, "", 1) if newlines else head)
    translation.whole()
    for members, quantifier in translation.classes:
        if (members & white_space).any() and quantifier not in ("", "?"):
            raise NotInTheGraph(f"the words of {pattern!r}, which white space may be part of")
    if tail == _LOOKAHEAD[1]:
        raise NotInTheGraph(f"the lookahead of {pattern!r}")
    whole = _Translation((head + "|" if head else "") + r"\s+").whole()
    return Pattern(whole, ranges(white_space))


class _Translation:
    """One pattern, read from left to right."""

    def __init__(self, pattern: str):
        self.pattern = pattern
        self.classes = []  # the sets of characters in it, each with what stands behind it: how often

    def whole(self) -> str:
        self.place, self.classes, out, groups = 0, [], [], [False]
        while self.place < len(self.pattern):
            rest = self.pattern[self.place :]
            fold = groups[-1]
            if rest.startswith("(?i:") or rest.startswith("(?:"):
                self.place += rest.index(":") + 1
                groups.append(fold or rest.startswith("(?i:"))
                out.append("(?:")
            elif rest.startswith("(?"):
                self._refuse(rest[:4])
            elif rest[0] == "(":
                self.place += 1
                groups.append(fold)
                out.append("(?:")
            elif rest[0] == ")":
                self.place += 1
                if len(groups) == 1:
                    self._refuse(")")
                groups.pop()
                out.append(")" + self._quantifier())
            elif rest[0] == "|":
                self.place += 1
                out.append("|")
            elif rest[0] in "^$.*+?{":
                self._refuse(rest[0])
            else:
                members = self._class() if rest[0] == "[" else self._atom(fold)
                quantifier = self._quantifier()
                self.classes.append((members, quantifier))
                out.append(_written(members) + quantifier)
        if len(groups) != 1:
            self._refuse("(")
        return "".join(out)

    def _quantifier(self) -> str:
        found = _QUANTIFIER.match(self.pattern, self.place)
        text = found.group() if found else ""
        self.place += len(text)
        if found and self.pattern[self.place : self.place + 1] in ("+", "*", "?", "{"):
            self._refuse("a possessive or repeated quantifier")
        return text

    def _class(self) -> np.ndarray:
        self.place += 1
        negated = self.pattern[self.place : self.place + 1] == "^"
        self.place += negated
        members, first = np.zeros(COUNT, bool), True
        while first or self.pattern[self.place : self.place + 1] != "]":
            rest = self.pattern[self.place : self.place + 2]
            if not rest or rest[0] == "[" or rest == "&&":
                self._refuse(f"the class with {rest!r}")
            begin = self._atom(False)
            if (
                self.pattern[self.place : self.place + 1] == "-"
                and self.pattern[self.place + 1 : self.place + 2] != "]"
            ):
                self.place += 1
                end = self._atom(False)
                if begin.sum() != 1 or end.sum() != 1:
                    self._refuse("a range of classes")
                begin[begin.argmax() : end.argmax() + 1] = True
            members |= begin
            first = False
        self.place += 1
        return characters() & ~members if negated else members

    def _atom(self, fold: bool) -> np.ndarray:
        """The characters that the next atom matches."""
        atom = _ATOM.match(self.pattern, self.place).group()
        self.place += len(atom)
        if atom[:2] in (r"\p", r"\P", r"\s", r"\S", r"\d", r"\D", r"\w", r"\W"):
            positive = atom[:1] + atom[1].lower() + atom[2:].replace("^", "")
            negated = (atom[1].isupper()) != ("^" in atom)
            return characters() & ~matching(positive) if negated else matching(positive)
        if atom[:2] in (r"\x", r"\u"):
            return as_set(chr(int(atom[2:].strip("{}"), 16)))
        if atom[0] == "\\":
            if atom[1].isalnum() and atom[1] not in _ESCAPES:
                self._refuse(atom)
            atom = _ESCAPES.get(atom[1], atom[1])
        return matching(f"(?i:{atom})") if fold and atom.isalpha() else as_set(atom)

    def _refuse(self, what: str):
        raise NotInTheGraph(f"{what!r} in the regular expression {self.pattern!r}")


def _written(members: np.ndarray) -> str:
    if members.sum() == 1:
        return escaped(chr(members.argmax()))
    outside = characters() & ~members
    return f"[^{ranges(outside)}]" if outside.any() and outside.sum() < members.sum() else f"[{ranges(members)}]"
