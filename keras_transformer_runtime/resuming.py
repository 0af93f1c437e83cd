"""What a run notes beside its output, so that it can be gone on with and nobody else writes there meanwhile."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from keras_transformer_runtime.lines import Refusal

try:
    import fcntl
except ImportError:  # Windows: there nobody is kept away
    fcntl = None

SUFFIX = ".state"
NAME = "keras_transformer_run"
FORMAT = 1
BYTES = 8  # of the hash of a line
FAILED = 1  # the bit of its first byte that tells whether there was no answer
LONGEST_HEADER = 2**16
BLOCK = 2**20


class State:
    """The file OUTPUT.state: a line of JSON, what decides the answers, then 8 bytes a line that was answered, its hash.

    They are there before the answer is. The file belongs to this process as long as it lives: a lock goes with it.

    Args:
        output: The file of the answers.

    Attributes:
        settings: What the run was begun with; None of a run that did not begin.
        count: Of how many lines it tells.

    Raises:
        Refusal: If another process has it, or a file of that name is none of ours.
    """

    def __init__(self, output: Path):
        self.path = output.with_name(output.name + SUFFIX)
        self._output = output
        self._file = _locked(self.path, output)
        try:
            self.settings, self._start = self._read()
        except Refusal:
            self._file.close()
            raise
        size = os.fstat(self._file.fileno()).st_size
        self.count = 0 if self.settings is None else (size - self._start) // BYTES

    def _read(self) -> tuple[dict | None, int]:
        line = self._file.readline(LONGEST_HEADER)
        if not line:
            return None, 0
        try:
            header = json.loads(line)
            if header[NAME] == FORMAT:
                return header["settings"], len(line)
            problem = f"of format {header[NAME]}; this version reads {FORMAT}"
        except (ValueError, TypeError, LookupError):
            problem = "not what a run notes"
        raise Refusal(f"'{self.path}' is {problem}. It would stand beside '{self._output}': move one of them away.")

    def failed(self, count: int) -> list[int]:
        """The numbers of those of the first lines that have an error in the place of an answer."""
        self._file.seek(self._start)
        return [number for number in range(1, count + 1) if self._file.read(BYTES)[0] & FAILED]

    def check(self, lines: Iterator[tuple[int, bytes]], count: int) -> Iterator[tuple[int, bytes]]:
        """The lines as they come; Refusal at one of the first `count` that is not what was answered."""
        self._file.seek(self._start)
        for number, line in lines:
            if number <= count and _hashed(line, failed=False) != _without_flag(self._file.read(BYTES)):
                raise Refusal(
                    f"Line {number} of the input is not what it was when '{self._output}' got its answer: give that "
                    "input, or --overwrite to begin anew."
                )
            yield number, line

    def begin(self, settings: dict) -> None:
        """Tell of a run that begins."""
        self._file.seek(0)
        self._file.truncate()
        header = json.dumps({NAME: FORMAT, "settings": settings}).encode() + b"\n"
        self._file.write(header)
        self._file.flush()
        self._start, self.settings, self.count = len(header), settings, 0

    def go_on(self, count: int) -> None:
        """Tell of so many lines only, before others are added."""
        self._file.seek(self._start + BYTES * count)
        self._file.truncate()
        self.count = count

    def add(self, lines: list[tuple[bytes | str, bool]]) -> None:
        """Lines that will have an answer, or, where that is true, an error."""
        self._file.write(b"".join(_hashed(line, failed=failed) for line, failed in lines))
        self._file.flush()
        self.count += len(lines)

    def close(self, *, remove: bool) -> None:
        """Let go of the file; it stays, unless it is of no use any more."""
        remove = remove or self.settings is None
        if fcntl is None:  # Windows removes nothing that is open
            self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _hashed(line: bytes | str, *, failed: bool) -> bytes:
    line = line.encode(errors="surrogateescape") if isinstance(line, str) else line
    digest = _without_flag(hashlib.blake2b(line, digest_size=BYTES).digest())
    return bytes([digest[0] | FAILED * failed]) + digest[1:]


def _without_flag(digest: bytes) -> bytes:
    return bytes([digest[0] & ~FAILED]) + digest[1:] if digest else digest


def _locked(path: Path, output: Path) -> BinaryIO:
    """The file, made if it is not there, that no other process has."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        lock(file, output)
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # who had it has removed it in between


def lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes away as long as this one has the file open; Refusal if another one does so."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise Refusal(f"Another process is writing '{path}': wait for its end, or write to another file.") from error
    except OSError:  # a file system without locks
        return


def check_settings(begun: dict, now: dict, output: Path) -> None:
    """Refuse to go on with what was begun with other settings, by their names on the command line."""
    changed = [name for name in now if begun.get(name) != now[name]]
    if not changed:
        return
    name = changed[0]
    if name == "export":
        problem = "another export, or this one was written anew since"
    else:
        problem = f"{_given(name, begun.get(name))}, and is to be gone on with {_given(name, now[name])}"
    raise Refusal(f"'{output}' was begun with {problem}: give what it was begun with, or --overwrite to begin anew.")


def _given(name: str, value) -> str:
    if value is None or value is False:
        return f"no {name}"
    return name if value is True else f"{name} {value}"


def fingerprint(export: Path) -> str:
    """A hash of all that is in an export, a file or a folder."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(x for x in export.rglob("*") if x.is_file()) if export.is_dir() else [export]
    for path in files:
        name = str(path.relative_to(export)).encode()
        digest.update(b"%d %d " % (len(name), path.stat().st_size) + name)
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()
