"""What training reads: texts, the lines of files, and the characters in them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator


def lines(texts: Iterable[str | os.PathLike], caller: str) -> Iterator[str]:
    """The texts one by one; a path among them stands for the lines of that UTF-8 file."""
    if isinstance(texts, str | bytes | os.PathLike):
        raise ValueError(
            f"{caller} takes an iterable of texts or paths; put a single one in a list. Received: {texts!r}"
        )
    for text in texts:
        if isinstance(text, os.PathLike):
            yield from _file_lines(text)
        elif isinstance(text, str):
            yield text
        else:
            raise ValueError(f"{caller} takes str or pathlib.Path. Received: {text!r}")


def _file_lines(path: os.PathLike) -> Iterator[str]:
    with open(path, encoding="utf-8-sig") as file:
        try:
            for line in file:
                yield line.removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(path)} is not UTF-8, or was cut off: {error}. Write it in UTF-8.") from error


def alphabet(counts: Counter[str], coverage: float) -> list[str]:
    """The most frequent characters, as many as make up that share of all; ties in the order of Unicode."""
    if not 0 < coverage <= 1:
        raise ValueError(f"character_coverage is a share, more than 0 and at most 1. Received: {coverage!r}")
    wanted, characters = coverage * counts.total(), []
    for character in sorted(counts, key=lambda character: (-counts[character], character)):
        if wanted <= 0:
            break
        characters.append(character)
        wanted -= counts[character]
    return characters
