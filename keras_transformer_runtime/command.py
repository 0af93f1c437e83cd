"""The command line, without Keras: `keras-transformer run EXPORT`, `describe EXPORT` and `benchmark EXPORT`."""

import argparse
import contextlib
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from keras_transformer_runtime import benchmarking
from keras_transformer_runtime.answering import FORMS, Answer, Answerer, escape, form_of, one_line, plain
from keras_transformer_runtime.describing import as_text, describe
from keras_transformer_runtime.lines import Refusal, check_distinct, read_lines
from keras_transformer_runtime.output import Output
from keras_transformer_runtime.resuming import SUFFIX, fingerprint
from keras_transformer_runtime.runner import Runner, load
from keras_transformer_runtime.version import __version__

NAME = "keras-transformer"
FINE, FAILED, MISUSED, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
DRAWN = "drawn from"  # the seed, a fresh one where the export has none
MADE_UP = object()  # in place of a file of inputs
KEPT = []  # the runner, until the process ends: LiteRT tells what it takes down with it

ABOUT = "Run, describe and time what kt.export wrote: a SavedModel folder, a .tflite or .litertlm file, or ONNX."
ABOUT_RUN = """\
Answer texts, or the lines of a file or of standard input: one line for one line, in the same order.

A line is
  text  a text of UTF-8, if the export takes texts;
  ids   integers with spaces between them, if it takes ids;
  json  a list of numbers for the one input, an object of inputs by name, or a text with quotes: for whatever there is.
It ends with \\n or \\r\\n; a byte order mark before the first is left out. A line that is empty, no UTF-8, not of
its form, or is too long for the export is an error. Without --errors the command then ends, when all lines before have
been answered. With --errors FILE the error is written to that file, as {"line": number, "error": message}, and in its
place stands an empty line, or the same object with --json; the rest goes on. (An argument "" is an empty text, as "" is
in JSON.)

An answer is the best text, or its ids; of a plain model the values of its output. So that each stays in its line, line
breaks in it are written as \\n and \\r, and a backslash as \\\\; not where they go to a terminal, or with --json, which
has everything: {"line", "texts", "tokens", "lengths", "scores"}, one of each for each sequence, or {"line", "outputs"}.
What JSON has no number for is "NaN", "Infinity" or "-Infinity".

--resume goes on behind the last whole line of --output, and drops a half-written one; the file becomes, to the byte,
what a run that nobody stopped would have written. Beside the output stands OUTPUT.state, which tells what the run was
begun with: another export, another option that decides the answers, or a line that is not what was answered is refused,
and so is a second process. The file is removed in the end, but not from a run with --resume: the same command, given
again, finds that all is done, or answers the lines that were added to the input."""
ABOUT_BENCHMARK = """\
Time an export: loading it, with the package that runs it; the first call; then, for each number of rows, the median of
some calls, rows a second, and of generators tokens a second. Those are the tokens that were generated, in all sequences
that are returned, not prompts. Reading and writing lines is not timed.

Without --input inputs are made up: random ids, or numbers, of one shape, which is told. What a model makes of them may
be shorter or longer than what it makes of yours."""
STATUS = """\
exit status: 0 fine; 1 an input, a file or the export failed; 2 wrong usage, or an output that may not be written;
130 interrupted; 141 nobody reads the output any more."""


class Failure(Exception):
    """What ends the command with exit status 1."""


def main(arguments: Sequence[str] | None = None, *, answered: Callable | None = None) -> int:
    """The command. Returns its exit status.

    Args:
        arguments: Of the command line. Default: those of this process.
        answered: Who answers the lines of a run in place of this process: a function that takes what `answered_here`
            takes and yields what it yields.
    """
    parser, parsers = _parsers()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] and arguments[0] in parsers:
            parser = parsers[arguments[0]]
            options = parser.parse_intermixed_args(arguments[1:])  # texts may stand behind options
        else:
            parser.parse_args(arguments)
            parser.error(f"a command is missing, one of {', '.join(parsers)}")
    except SystemExit as error:  # --help, or wrong usage
        return MISUSED if error.code else FINE
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself is no error
    try:
        options.answered = answered or answered_here
        return options.command(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # what is left in the buffer has nowhere to go, at exit neither
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (Refusal, Failure, ValueError, ImportError, OSError) as error:
        if options.traceback:
            traceback.print_exc()
        print(f"{NAME}: error: {one_line(error)}", file=sys.stderr)
        return MISUSED if isinstance(error, Refusal) else FAILED


def script() -> int:
    """The command as a process that ends with it. Returns its exit status."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody wants to read that
    return status


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    as_it_stands: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": STATUS}
    parser = argparse.ArgumentParser(NAME, description=ABOUT, **as_it_stands)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, about: str, description: str, command: Callable) -> argparse.ArgumentParser:
        new = commands.add_parser(name, help=about, description=description, **as_it_stands)
        new.set_defaults(command=command)
        new.add_argument("export", metavar="EXPORT", type=Path, help="what kt.export wrote")
        new.add_argument("--json", action="store_true", help="write JSON")
        new.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
        return new

    def add_running(new: argparse.ArgumentParser) -> None:
        new.add_argument("--input", metavar="FILE", type=_file, help="read lines from it; - is standard input")
        new.add_argument("--as", dest="form", choices=FORMS, help="what a line is (default: what the export takes)")
        new.add_argument("--threads", metavar="N", type=_positive, help="threads of the LiteRT interpreter")

    run = add("run", "answer texts, ids or other inputs", ABOUT_RUN, _run)
    run.add_argument(
        "texts", metavar="text", nargs="*", default=[], help="what to answer (default: each line of standard input)"
    )
    add_running(run)
    run.add_argument("--output", metavar="FILE", type=_file, help="write answers to it; - is standard output")
    run.add_argument("--errors", metavar="FILE", type=_file, help="write errors to it, and answer the other lines")
    again = run.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on behind the last line that --output holds")
    again.add_argument("--overwrite", action="store_true", help="replace --output and --errors")
    run.add_argument(
        "--batch-size",
        metavar="N",
        type=_positive,
        help="lines at a time (default: the export's, or 32; at a keyboard 1)",
    )
    run.add_argument(
        "--seed", metavar="N", type=int, help="of the first batch, if the export samples; the next has N + 1"
    )
    run.add_argument(
        "--stream", action="store_true", help="write an answer as it comes, as happens on a terminal where it can"
    )
    run.add_argument("--quiet", action="store_true", help="show no progress")

    new = add("benchmark", "how long it takes to load and to answer", ABOUT_BENCHMARK, _benchmark)
    add_running(new)
    new.set_defaults(input=MADE_UP)
    new.add_argument(
        "--batch-size",
        metavar="N",
        dest="sizes",
        type=_positive,
        action="append",
        help="rows a call; may be given several times (default: the export's, or 1, 8 and 32)",
    )
    new.add_argument("--calls", metavar="N", type=_positive, default=10, help="how many are timed (default: 10)")
    new.add_argument(
        "--length",
        metavar="N",
        type=_positive,
        help="ids a row of what is made up (default: 16, or what there is room for)",
    )

    about = "kind, inputs, tokenizers, strategy, size, needed packages"
    add("describe", about, f"Tell of an export its {about}; none of them has to be there.", _describe)

    return parser, {name: commands.choices[name] for name in commands.choices}


def _file(name: str) -> Path | None:
    return None if name == "-" else Path(name)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_positive.__name__ = "positive integer"  # argparse names it in its message


# describe


def _describe(options) -> int:
    facts = describe(options.export)
    _say(json.dumps(facts, ensure_ascii=False) if options.json else as_text(facts))
    return FINE


def _benchmark(options) -> int:
    given = options.input is not MADE_UP
    if given and options.length is not None:
        raise Refusal("--length is that of inputs that are made up: leave it out with --input.")
    if not given and options.form is not None:
        raise Refusal("--as tells what the lines of a file are: give --input, too.")
    with _opened(options) if given else contextlib.nullcontext() as file:
        facts = benchmarking.benchmark(
            options.export,
            lambda: _load(options),
            lines=read_lines(file) if given else None,
            form=options.form,
            sizes=options.sizes,
            calls=options.calls,
            length=options.length or 16,
            threads=options.threads,
        )
    _say(json.dumps(facts, ensure_ascii=False) if options.json else benchmarking.as_text(facts))
    return FINE


def _load(options) -> Runner:
    runner = load(options.export, num_threads=options.threads)
    KEPT[:] = [runner]
    return runner


def _say(text: str) -> None:
    sys.stdout.buffer.write(f"{text}\n".encode())
    sys.stdout.buffer.flush()


# run


def _run(options) -> int:
    _check(options)
    output = Output(
        sys.stdout.buffer, options.output, options.errors, resume=options.resume, overwrite=options.overwrite
    )
    with contextlib.closing(output), _opened(options) as file:
        lines = enumerate(options.texts or read_lines(file), 1)
        runner = _load(options)
        begun = output.settings or {}
        answerer = Answerer(runner, options.form or form_of(runner), begun.get(DRAWN, options.seed))
        if options.seed is not None and not (runner.is_generator and runner.metadata["takes_seed"]):
            raise Refusal(f"'{options.export}' draws no random numbers: it takes no --seed.")
        size = _batch_size(options, answerer, file)
        streams = _streams(options, answerer)
        settings = {} if options.output is None else _settings(options, answerer, size)
        first, lines = _rest(options, output, output.check(lines, settings), size)
        output.open({**settings, DRAWN: answerer.seed})
        with _progress(options, output, file) as advance:
            if streams:
                _stream(options, output, answerer, lines, size)
            else:
                _batches(options, output, answerer, lines, size, first, advance)
        output.is_whole = True
    return FAILED if output.failed else FINE


def _check(options) -> None:
    if options.texts and options.input is not None:
        raise Refusal("Give texts or --input, not both.")
    if options.resume and (options.output is None or options.texts):
        raise Refusal("--resume goes on with an --output of lines: give that file, and --input in place of texts.")
    if options.stream and (options.json or options.output is not None):
        raise Refusal("--stream writes texts to standard output: leave out --json and --output.")
    files = {"input": options.input, "output": options.output, "errors": options.errors}
    check_distinct(**files)
    if options.output is not None:
        check_distinct(**{**files, "output": options.output.with_name(options.output.name + SUFFIX)})


def _settings(options, answerer: Answerer, size: int) -> dict:
    """What decides the answers to the lines, by its name on the command line."""
    return {
        "export": fingerprint(options.export),
        "--as": answerer.form,
        "--json": options.json,
        "--batch-size": size,
        "--seed": options.seed,
    }


def _opened(options) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if options.input is None else open(options.input, "rb")


def _batch_size(options, answerer: Answerer, file: BinaryIO) -> int:
    fixed = answerer.fixed_rows
    if options.batch_size is not None and fixed is not None and options.batch_size != fixed:
        raise Refusal(f"'{options.export}' takes {fixed} rows at a time: leave out --batch-size.")
    most = answerer.rows_of_file
    if answerer.seed is not None and most is not None and (options.batch_size or 1) > most:
        raise Refusal(
            f"'{options.export}' draws random numbers for {most} rows at a time: give --batch-size {most} or less."
        )
    at_keyboard = not options.texts and file.isatty()
    return options.batch_size or (1 if at_keyboard else answerer.batch_size)


def _streams(options, answerer: Answerer) -> bool:
    if not options.stream and (options.json or options.output is not None or not sys.stdout.isatty()):
        return False
    try:
        answerer.check_streams()
    except ValueError as error:
        if options.stream:
            raise Refusal(str(error)) from error
        return False
    return True


def _rest(options, output: Output, lines: Iterator, size: int) -> tuple[int, Iterator]:
    """The number of the batch with the first line that has no answer, and the lines from there: so batches are those of
    a run from the beginning."""
    if not output.done and not output.has_half_a_line:
        return 0, lines
    batch = output.done // size
    skipped = sum(1 for _ in itertools.islice(lines, batch * size))
    first = list(itertools.islice(lines, size))
    if skipped + len(first) < output.done + output.has_half_a_line:
        raise Refusal(
            f"'{options.output}' has {output.done} lines{' and a part of one' * output.has_half_a_line}, and the input "
            f"{skipped + len(first)}: these are not its answers. --overwrite begins anew."
        )
    return batch, itertools.chain(first, lines)


def _batches(options, output: Output, answerer: Answerer, lines: Iterator, size: int, first: int, advance) -> None:
    to_terminal = options.output is None and sys.stdout.isatty()
    for part, answers in options.answered(options, answerer, lines, size, first):
        found = [(number, x) for (number, _), x in zip(part, answers, strict=True) if number > output.done]
        errors = {number: answer for number, answer in found if answer.error is not None}
        if errors and output.keeps_errors:
            output.write_errors({number: answer.message for number, answer in errors.items()})
        elif errors:
            found = [(number, answer) for number, answer in found if number < min(errors)]
        read = dict(part)
        output.write(
            [
                (read[number], answer.error is not None, _rendered(number, answer, options.json, to_terminal))
                for number, answer in found
            ]
        )
        if errors and not output.keeps_errors:
            raise _failure(options, min(errors), errors[min(errors)].error)
        advance(len(part))


def answered_here(
    options: argparse.Namespace, answerer: Answerer, lines: Iterator, size: int, first: int
) -> Iterator[tuple[list[tuple[int, bytes]], list[Answer]]]:
    """Lines, each with its number, and their answers, batch by batch.

    Args:
        options: Of the command line.
        answerer: Answers a batch.
        lines: What is to be answered, each with its number, from the first one of a batch on.
        size: Lines of a batch.
        first: The number of the first batch.
    """
    for batch in itertools.count(first):
        part = list(itertools.islice(lines, size))
        if not part:
            return
        yield part, answerer([line for _, line in part], batch)


def _rendered(number: int, answer: Answer, as_json: bool, to_terminal: bool) -> str:
    if as_json:
        parts = {"error": answer.message} if answer.error is not None else answer.record
        return json.dumps({"line": number, **parts}, ensure_ascii=False)
    text = "" if answer.error is not None else plain(answer.record)
    return text if to_terminal else escape(text)


def _failure(options, number: int, error: Exception) -> Failure:
    if options.texts:
        failure = Failure(f"text {number}: {one_line(error)}")
    else:
        where = "" if options.input is None else f"'{options.input}', "
        failure = Failure(f"{where}line {number}: {one_line(error)} (--errors FILE answers the other lines.)")
    failure.__cause__ = error
    return failure


def _stream(options, output: Output, answerer: Answerer, lines: Iterator, size: int) -> None:
    for number, line in lines:
        try:
            for piece in answerer.stream(line, *divmod(number - 1, size)):
                output.write_piece(piece if sys.stdout.isatty() else escape(piece))
        except (OSError, ImportError):  # of no line
            raise
        except Exception as error:  # of this package, or of whatever runs the export
            if not output.keeps_errors:
                raise _failure(options, number, error) from error
            output.write_errors({number: one_line(error)})
        output.write([(line, False, "")])


@contextlib.contextmanager
def _progress(options, output: Output, file: BinaryIO) -> Iterator[Callable[[int], None]]:
    """A function that is told how many lines were answered, and shows it where somebody sees it and rich is there."""
    seen = sys.stderr.isatty() and (options.output is not None or not sys.stdout.isatty())
    try:
        if not seen or options.quiet or options.texts or file.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda count: None
        return
    is_counted = options.input is not None and file.seekable()  # of a pipe nobody knows the length
    total = os.fstat(file.fileno()).st_size if is_counted else None
    columns = [BarColumn(), TextColumn("{task.fields[lines]} lines"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total, lines=output.done)

        def advance(count: int) -> None:
            progress.update(task, lines=output.done, completed=None if total is None else file.tell())

        yield advance
