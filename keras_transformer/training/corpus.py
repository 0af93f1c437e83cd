"""Texts in files, read when they are asked for: of a file that is larger than memory, only where its lines begin."""

import mmap
import os
from array import array
from collections.abc import Sequence

import numpy as np

from keras_transformer.text.corpus import decode_line, raw_lines

Path = str | os.PathLike


class _Lines:
    """The lines of a UTF-8 file by number, and of a tab-separated file the column of that number."""

    def __init__(self, path: Path):
        self.path = os.fspath(path)
        starts = array("q", [0])
        with open(path, "rb") as file:
            for line in raw_lines(file):
                starts.append(starts[-1] + len(line))
            if len(starts) == 1:
                raise ValueError(f"{self.path} is empty: there is nothing to train on.")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = np.frombuffer(starts, "int64")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def text(self, number: int, column: int | None) -> str:
        """The line, or that column of it."""
        text = decode_line(self._bytes[self._starts[number] : self._starts[number + 1]], self.path, number + 1)
        if column is None:
            return text
        columns = text.split("\t")
        if column >= len(columns):
            raise ValueError(
                f"{self.path}, line {number + 1}: there is no column {column}, counted from 0; columns are separated "
                f"by tabs, and this line has {len(columns)}: {text[:80]!r}"
            )
        return columns[column]


class FileTexts(Sequence):
    """What `read_texts` and `read_pairs` return: texts, or tuples of them, by number.

    Attributes:
        empty: How many lines were left out, because there is nothing but white space on one of their sides.
    """

    def __init__(self, sides: list[tuple[_Lines, int | None]]):
        self._sides = sides
        lines = range(len(sides[0][0]))
        texts = ([file.text(number, column) for file, column in sides] for number in lines)
        self._kept = np.flatnonzero([all(text.strip() for text in line) for line in texts])
        self.empty = len(lines) - len(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = self._kept[index]
        texts = tuple(file.text(number, column) for file, column in self._sides)
        return texts if len(texts) > 1 else texts[0]


def _check_column(caller: str, column) -> None:
    if isinstance(column, bool) or not isinstance(column, int) or column < 0:
        raise ValueError(f"{caller} takes numbers of columns, counted from 0. Received: {column!r}")


def read_texts(path: Path, *, column: int | None = None) -> FileTexts:
    """The texts of a UTF-8 file, one a line, read when they are asked for.

    The file is gone through once, to find where its lines begin and that all can be read; later it is mapped, not
    loaded, so it may be larger than memory, and must not change. Lines of white space only are left out; `.empty`
    counts them. Byte order marks are dropped, also within a file that was put together of several.

    Args:
        path: Of the file.
        column: Which column of a tab-separated file to take, counted from 0. None: the whole line.

    Returns:
        A sequence of `str`.

    Raises:
        ValueError: If the file is empty, is not UTF-8, or a line holds a carriage return or has not the column: file
            and line are named.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_transformer.training import read_texts
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "texts.txt"
    >>> _ = path.write_text("a dog\\n\\ntwo cats\\n")
    >>> texts = read_texts(path)
    >>> list(texts), texts.empty
    (['a dog', 'two cats'], 1)
    """
    if column is not None:
        _check_column("read_texts", column)
    return FileTexts([(_Lines(path), column)])


def read_pairs(source: Path, target: Path | None = None, *, columns: tuple[int, int] = (0, 1)) -> FileTexts:
    """Pairs of texts, of two columns of a tab-separated UTF-8 file or of the same lines of two files.

    They are read as `read_texts` does. A pair with an empty side is left out; `.empty` counts them.

    Args:
        source: Path of the tab-separated file, or of the file of sources.
        target: Path of the file of targets, if they have one of their own.
        columns: Of the source and of the target in a tab-separated file, counted from 0.

    Returns:
        A sequence of (source, target), two `str`.

    Raises:
        ValueError: If a file is empty, is not UTF-8, or a line holds a carriage return or has not both columns: file
            and line are named; if two files have different numbers of lines.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_transformer.training import read_pairs
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.tsv"
    >>> _ = path.write_text("a dog\\tein Hund\\ntwo cats\\tzwei Katzen\\n")
    >>> read_pairs(path)[1]
    ('two cats', 'zwei Katzen')
    """
    if target is None:
        if len(columns) != 2:
            raise ValueError(f"read_pairs takes two columns, of the source and of the target. Received: {columns!r}")
        for column in columns:
            _check_column("read_pairs", column)
        lines = _Lines(source)
        return FileTexts([(lines, column) for column in columns])
    sides = [_Lines(source), _Lines(target)]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"{sides[0].path} has {len(sides[0])} lines and {sides[1].path} has {len(sides[1])}; each line of one is "
            "to be the counterpart of the same line of the other."
        )
    return FileTexts([(lines, None) for lines in sides])
