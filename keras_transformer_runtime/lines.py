"""Lines of files and pipes: read by number, answered in order, gone on with where a process was killed."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK = 2**20  # bytes that are looked through at a time


class Refusal(Exception):
    """What the command does not begin with, such as an output that is there: wrong usage."""


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file without what ends them, \\n or \\r\\n, and without a byte order mark before the first."""
    for number, line in enumerate(file):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        yield line if number else line.removeprefix(BYTE_ORDER_MARK)


def skip_lines(lines: Iterator[bytes], count: int) -> int:
    """Go past the first `count` lines; returns how many there were."""
    return sum(1 for _ in itertools.islice(lines, count))


def whole_lines(path: Path) -> tuple[int, int]:
    """How many lines a file holds that have an end, and how many bytes they take."""
    count = end = position = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            count += block.count(b"\n")
            place = block.rfind(b"\n")
            end = end if place < 0 else position + place + 1
            position += len(block)
    return count, end


class Output:
    """The files that a run writes: its answers, one a line, and what went wrong, likewise.

    An error is in its file before the answers of its batch are in theirs. Whatever a process was killed at, what is to
    be known of the lines that have an answer is there, and the rest is written again.

    Args:
        file: Where answers go that go to no file.
        path, errors: The files; None for none.
        resume: Whether to go on behind the lines that `path` holds.
        overwrite: Whether files that are there may be replaced.

    Attributes:
        done: How many lines have an answer.
        failed: How many of them have an error in its place.

    Raises:
        Refusal: If a file is there and may be neither replaced nor gone on with.
    """

    def __init__(self, file: BinaryIO, path: Path | None, errors: Path | None, *, resume: bool, overwrite: bool):
        self.done = self.failed = 0
        self._file, self._errors = file, None
        self._path, self._errors_path = path, errors
        self._ends = {}  # how much of each file is kept
        for there in (x for x in (path, errors) if x is not None):
            if there.exists() and not (resume or overwrite):
                raise Refusal(f"'{there}' is there: --resume goes on behind its last line, --overwrite replaces it.")
        if resume and path is not None and path.exists():
            self.done, self._ends[path] = whole_lines(path)
            self.has_half_a_line = path.stat().st_size > self._ends[path]
            if errors is not None and errors.exists():
                self.failed, self._ends[errors] = _errors_up_to(errors, self.done)
        else:
            self.has_half_a_line = False

    def open(self) -> None:
        """Begin to write: now what may be replaced is, and a half-written last line is dropped."""
        if self._path is not None:
            self._file = self._opened(self._path)
        if self._errors_path is not None:
            self._errors = self._opened(self._errors_path)

    def _opened(self, path: Path) -> BinaryIO:
        file = open(path, "ab")  # noqa: SIM115
        file.truncate(self._ends.get(path, 0))
        return file

    @property
    def keeps_errors(self) -> bool:
        """Whether there is a file for what went wrong."""
        return self._errors_path is not None

    def write_errors(self, errors: dict[int, str]) -> None:
        """What went wrong, by the number of the line."""
        self.failed += len(errors)
        lines = (json.dumps({"line": number, "error": error}, ensure_ascii=False) for number, error in errors.items())
        self._errors.write("".join(f"{line}\n" for line in lines).encode())
        self._errors.flush()

    def write(self, answers: list[str]) -> None:
        """Answers, each without the end of its line."""
        self._file.write("".join(f"{answer}\n" for answer in answers).encode())
        self._file.flush()
        self.done += len(answers)

    def write_piece(self, piece: str) -> None:
        """A part of an answer; the last one ends its line."""
        self._file.write(piece.encode())
        self._file.flush()

    def close(self) -> None:
        """Close what was opened."""
        for path, file in ((self._path, self._file), (self._errors_path, self._errors)):
            if path is not None and file is not None:
                file.close()


def _errors_up_to(path: Path, last: int) -> tuple[int, int]:
    """How many errors a file holds of the lines up to `last`, and how many bytes these take."""
    count = end = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                number = json.loads(line)["line"] if line.endswith(b"\n") else last + 1
            except (ValueError, TypeError, LookupError) as error:
                raise Refusal(
                    f"'{path}' is no file of errors that a run wrote: line {count + 1} is another."
                ) from error
            if number > last:
                break
            count, end = count + 1, end + len(line)
    return count, end


def check_distinct(**paths: str | os.PathLike | None) -> None:
    """Refuse one file in several places."""
    there = {option: os.path.realpath(path) for option, path in paths.items() if path is not None}
    for first, second in itertools.combinations(there, 2):
        if there[first] == there[second]:
            raise Refusal(f"--{first} and --{second} are the same file, '{paths[first]}'.")
