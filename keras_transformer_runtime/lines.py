"""Lines of files and pipes, and what is refused before any is read."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK = 2**20  # bytes that are looked through at a time


class Refusal(Exception):
    """What the command does not begin with, such as an output that is there: wrong usage."""


def read_lines(file: BinaryIO, *, from_beginning: bool = True) -> Iterator[bytes]:
    """The lines of a file without what ends them, \\n or \\r\\n, and without a byte order mark before the first, if the
    file is read from its beginning."""
    for number, line in enumerate(file):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        yield line if number or not from_beginning else line.removeprefix(BYTE_ORDER_MARK)


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


def check_distinct(**paths: str | os.PathLike | None) -> None:
    """Refuse one file in several places."""
    there = {option: os.path.realpath(path) for option, path in paths.items() if path is not None}
    for first, second in itertools.combinations(there, 2):
        if there[first] == there[second]:
            raise Refusal(f"--{first} and --{second} are the same file, '{paths[first]}'.")
