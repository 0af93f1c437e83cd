"""What training reads: texts, the lines of files, and the characters in them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np


def lines(texts: Iterable[str | os.PathLike], caller: str) -> Iterator[str]:
    """The texts one by one; a path among them stands for the lines of that UTF-8 file."""
    if isinstance(texts, str | bytes | os.PathLike) or not isinstance(texts, Iterable):
        raise ValueError(
            f"{caller} takes an iterable of texts or paths; put a single one in a list. Received: {texts!r}"
        )
    for text in texts:
        if isinstance(text, os.PathLike):
            yield from _file_lines(text)
        elif isinstance(text, str):
            if has_surrogates(text):
                raise ValueError(
                    f"{caller}: {text[:80]!r} holds halves of characters (surrogates), which no UTF-8 text holds."
                )
            yield text
        elif getattr(getattr(text, "dtype", None), "name", "") == "string":  # of a tf.data.Dataset
            yield from (x.decode(errors="replace") for x in np.ravel(text.numpy()).tolist())
        else:
            raise ValueError(f"{caller} takes str, pathlib.Path or tensors of strings. Received: {text!r}")


def has_surrogates(text: str) -> bool:
    """Whether a string holds halves of characters, as none does that is text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def check_size(caller: str, vocabulary_size) -> None:
    """Raise ValueError unless a number of pieces is a positive integer."""
    is_integer = isinstance(vocabulary_size, int | np.integer) and not isinstance(vocabulary_size, bool)
    if not is_integer or vocabulary_size < 1:
        raise ValueError(f"{caller} takes a positive integer as vocabulary_size. Received: {vocabulary_size!r}")


def _file_lines(path: os.PathLike) -> Iterator[str]:
    with open(path, "rb") as file:
        for number, line in enumerate(raw_lines(file), 1):
            yield decode_line(line, path, number)


def raw_lines(file) -> Iterator[bytes]:
    """The lines of a binary file with their ends: "\\n" or "\\r\\n", and in a file that has neither "\\r"."""
    for number, line in enumerate(file):
        if number == 0 and not line.endswith(b"\n"):
            yield from line.splitlines(keepends=True)
        else:
            yield line


def decode_line(line: bytes, path: str | os.PathLike, number: int) -> str:
    """A line of a UTF-8 file, without its end and without byte order marks, which are no text wherever they stand.

    Raises: ValueError that names file and line, if it is not UTF-8, or holds what no line of text does.
    """
    path, line = os.fspath(path), line.rstrip(b"\r\n")
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
        raise ValueError(
            f"{path}, line {number}: not UTF-8, but by its bytes UTF-16 or UTF-32. Write the file in UTF-8: "
            "iconv -f UTF-16 -t UTF-8."
        )
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: not UTF-8. Either {os.path.basename(path)} is not UTF-8, or was cut off: {error}. "
            "Write it in UTF-8, and unpack it if it is compressed."
        ) from error
    if "\r" in text:
        raise ValueError(
            f"{path}, line {number}: a carriage return within the line, {text[:80]!r}. Some programs end a line there, "
            "others do not. Write the file with one kind of line ends."
        )
    return text.replace("\ufeff", "")


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
