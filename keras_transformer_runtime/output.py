"""The files that a run writes, begun or gone on with: answers, errors, and the state that tells of both."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from keras_transformer_runtime.lines import Refusal, whole_lines
from keras_transformer_runtime.resuming import State, check_settings, lock

ANEW = "--overwrite begins anew."


class Output:
    """The files that a run writes: its answers, one a line, and what went wrong, likewise.

    Errors are in their file, and the lines in the state, before the answers are in theirs. Whatever a process was
    killed at, what is to be known of the lines that have an answer is there, and the rest is written again.

    Args:
        file: Where answers go that go to no file.
        path, errors: The files; None for none.
        resume: Whether to go on behind the lines that `path` holds.
        overwrite: Whether files that are there may be replaced.

    Attributes:
        done: How many lines have an answer.
        failed: How many of them have an error in its place.
        settings: What the run that is gone on with was begun with; None of one that begins.
        is_whole: To be set when all lines were answered: then the state is removed, but from a run that may be resumed.

    Raises:
        Refusal: If a file is there and may be neither replaced nor gone on with, or another process writes to it.
    """

    def __init__(self, file: BinaryIO, path: Path | None, errors: Path | None, *, resume: bool, overwrite: bool):
        self.done = self.failed = 0
        self.settings: dict | None = None
        self.has_half_a_line = self.is_whole = False
        self._file = file
        self._errors: BinaryIO | None = None
        self._state: State | None = None
        self._to_close: list[BinaryIO] = []
        self._path, self._errors_path = path, errors
        self._ends = {}  # how much of each file is kept
        self._resume = resume
        for there in (x for x in (path, errors) if x is not None and x.exists()):
            if not there.is_file():
                raise Refusal(f"'{there}' is no file: give one, or leave the option out to write to standard output.")
        if path is not None:
            self._state = State(path)
        try:
            self._look(resume, overwrite)
        except BaseException:
            self.close()
            raise

    def _look(self, resume: bool, overwrite: bool) -> None:
        path, errors = self._path, self._errors_path
        for there in (x for x in (path, errors) if x is not None):
            if there.exists() and not (resume or overwrite):
                raise Refusal(f"'{there}' is there: --resume goes on behind its last line, --overwrite replaces it.")
        if not resume or path is None:
            return
        if path.exists():
            self.done, self._ends[path] = whole_lines(path)
            self.has_half_a_line = path.stat().st_size > self._ends[path]
        if self.done or self.has_half_a_line:
            self._check_state()
        numbers = self._state.failed(self.done)
        self.failed = len(numbers)
        noted = []
        if errors is not None and errors.exists():
            noted, self._ends[errors] = _errors_up_to(errors, self.done)
            if self._state.settings is None and errors.stat().st_size:
                raise Refusal(
                    f"'{errors}' is not empty, and no '{self._state.path}' tells that it is of this run, which has no "
                    "answers yet: give another file for --errors, or remove this one."
                )
        if numbers != noted:
            given = "no --errors is given" if errors is None else f"'{errors}' does not tell of just these"
            raise Refusal(
                f"'{path}' has errors in the place of {len(numbers)} answers, and {given}: give the --errors that the "
                f"run was begun with. {ANEW}"
            )

    def _check_state(self) -> None:
        if self._state.settings is None:
            raise Refusal(
                f"'{self._path}' has {self.done} lines, and no '{self._state.path}' tells which export, options and "
                f"input they are of. {ANEW}"
            )
        self.settings = self._state.settings
        if self._state.count < self.done:
            raise Refusal(
                f"'{self._path}' has {self.done} lines, and '{self._state.path}' tells of {self._state.count}: "
                f"something else wrote to one of them. {ANEW}"
            )

    def check(self, lines: Iterator[tuple[int, bytes]], settings: dict) -> Iterator[tuple[int, bytes]]:
        """The lines as they come, of which those that have an answer must be what was answered.

        Raises:
            Refusal: If the settings are others than the run was begun with; then, at a line that is another.
        """
        if self.settings is None:
            return lines
        check_settings(self.settings, settings, self._path)
        return self._state.check(lines, self.done)

    def open(self, settings: dict) -> None:
        """Begin to write: now what may be replaced is, and a half-written last line is dropped."""
        if self._errors_path is not None:
            self._errors = self._opened(self._errors_path)
        if self._path is not None:
            self._file = self._opened(self._path)
            if self.settings is None:
                self._state.begin(settings)
            else:
                self._state.go_on(self.done)

    def _opened(self, path: Path) -> BinaryIO:
        file = open(path, "ab")  # noqa: SIM115
        self._to_close.append(file)
        lock(file, path)
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

    def write(self, answers: list[tuple[bytes | str, bool, str]]) -> None:
        """Answers, each without the end of its line, behind the line that is answered and whether there is an error."""
        if self._state is not None:
            self._state.add([(line, failed) for line, failed, _ in answers])
        self._file.write("".join(f"{answer}\n" for _, _, answer in answers).encode())
        self._file.flush()
        self.done += len(answers)

    def write_piece(self, piece: str) -> None:
        """A part of an answer; the last one ends its line."""
        self._file.write(piece.encode())
        self._file.flush()

    def close(self) -> None:
        """Close what was opened."""
        for file in self._to_close:
            file.close()
        if self._state is not None:
            self._state.close(remove=self.is_whole and not self._resume)


def _errors_up_to(path: Path, last: int) -> tuple[list[int], int]:
    """The numbers, up to `last`, of the lines that a file has errors of, and how many bytes these take."""
    numbers, end = [], 0
    with open(path, "rb") as file:
        for line in file:
            try:
                number = json.loads(line)["line"] if line.endswith(b"\n") else last + 1
            except (ValueError, TypeError, LookupError) as error:
                raise Refusal(
                    f"'{path}' is no file of errors that a run wrote: line {len(numbers) + 1} is another."
                ) from error
            if type(number) is not int:
                raise Refusal(f"'{path}' is no file of errors that a run wrote: line {len(numbers) + 1} is another.")
            if number > last:
                break
            numbers.append(number)
            end += len(line)
    return numbers, end
