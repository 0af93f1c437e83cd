"""How long an export takes to load and to answer: `keras-transformer benchmark`."""

import importlib.metadata
import itertools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from keras_transformer_runtime.answering import Answerer, form_of, one_line
from keras_transformer_runtime.describing import RUN_BY, describe, heading
from keras_transformer_runtime.inputs import Input
from keras_transformer_runtime.packages import PACKAGES
from keras_transformer_runtime.runner import Runner

SIZES = (1, 8, 32)  # rows a call, of an export that takes any number


def benchmark(
    path: Path,
    load: Callable[[], Runner],
    *,
    lines: Iterable[bytes] | None = None,
    form: str | None = None,
    sizes: list[int] | None = None,
    calls: int = 10,
    length: int = 16,
    threads: int | None = None,
) -> dict:
    """What an export takes, in seconds, and how much it answers in a second, as JSON has it.

    Of each number of rows one call is not counted, and `calls` are. Only the runner is timed, not how lines are read.
    Tokens are those that were generated, of all sequences that are returned: neither prompts nor start tokens.

    Args:
        path: The export.
        load: Loads it.
        lines: What to answer, over and over; as many are read as all calls take. Default: inputs are made up.
        form: What a line is. Default: what `keras-transformer run` takes it for.
        sizes: Rows a call. Default: those that the export was made for, or 1, 8 and 32.
        calls: How many are timed of each size.
        length: Ids a row of inputs that are made up, or their size in whatever dimension may vary.
        threads: Of the LiteRT interpreter, to tell of.

    Raises:
        ValueError: If there is no line, or the export refuses one, or what was made up.
    """
    facts = describe(path)
    runner, loading = _timed(load)
    form = form or form_of(runner)
    answerer = Answerer(runner, form)
    sizes = sizes or ([answerer.rows_of_file] if answerer.rows_of_file else list(SIZES))
    if lines is None:
        values, about = _made_up(runner, max(sizes), length)
    else:
        values = [
            _value(answerer, number, line) for number, line in enumerate(itertools.islice(lines, max(sizes) * calls), 1)
        ]
        if not values:
            raise ValueError("There is no line to answer.")
        about = {"made_up": False, "lines": len(values), "form": form}
    try:
        first, measured = _all_measured(answerer, values, sizes, calls)
    except ImportError:
        raise
    except Exception as error:  # of this package, of TensorFlow, or of whatever runs the export
        given = "these lines" if lines is not None else f"made-up rows of {_shapes(about)}: give --length or --input"
        raise ValueError(f"'{path}' does not take {given}. {one_line(error)}") from error
    return {
        **{name: facts[name] for name in ("path", "format", "size")},
        "kind": facts["description"]["kind"],
        "run_by": _package(facts["format"]),
        "processors": os.cpu_count(),
        "threads": threads,
        "inputs": about,
        "load_seconds": loading,
        "first_call_seconds": first,
        "sizes": measured,
    }


def as_text(facts: dict) -> str:
    """The same for a person."""
    inputs, sizes = facts["inputs"], facts["sizes"]
    if inputs["made_up"]:
        given = f"made up, a row of {_shapes(inputs)}"
    else:
        given = f"{inputs['lines']} lines as {inputs['form']}"
    threads = "" if facts["threads"] is None else f", {facts['threads']} threads"
    lines = [
        heading(facts, facts["kind"]),
        f"  run by      {facts['run_by']}, {facts['processors']} processors{threads}",
        f"  inputs      {given}",
        f"  load        {_readable(facts['load_seconds'])}",
        f"  first call  {_readable(facts['first_call_seconds'])}",
        f"  {'rows a call':>11} {'calls':>6} {'median':>10} {'rows/s':>10} {'tokens/s':>10}",
    ]
    for x in sizes:
        speeds = (f"{'-' if x[name] is None else f'{x[name]:.1f}':>10}" for name in _SPEEDS)
        lines.append(f"  {x['rows']:>11} {x['calls']:>6} {_readable(x['median_seconds']):>10} {' '.join(speeds)}")
    return "\n".join(lines)


_SPEEDS = ("rows_per_second", "tokens_per_second")


def _shapes(inputs: dict) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in inputs["shapes"].items())


def _readable(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _package(kind_of_file: str) -> str:
    name, _ = PACKAGES[RUN_BY[kind_of_file]]
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:  # a build that has another name
        return name


def _timed(function) -> tuple:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def _value(answerer: Answerer, number: int, line: bytes):
    try:
        return answerer.value_of(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {one_line(error)}") from error


def _all_measured(answerer: Answerer, values: list, sizes: list[int], calls: int) -> tuple[float, list[dict]]:
    """The seconds of the very first call, and what there is to say of each number of rows."""
    first, measured = None, []
    for size in sizes:
        batch = list(itertools.islice(itertools.cycle(values), size))
        _, seconds = _timed(lambda batch=batch: _answers(answerer, batch))  # it may set up what the others have
        first = seconds if first is None else first
        measured.append(_measured(answerer, values, size, calls))
    return first, measured


def _measured(answerer: Answerer, values: list, size: int, calls: int) -> dict:
    rest = itertools.cycle(values)
    times, tokens = [], 0
    for _ in range(calls):
        batch = list(itertools.islice(rest, size))
        answers, seconds = _timed(lambda batch=batch: _answers(answerer, batch))
        times.append(seconds)
        tokens = _sum(tokens, *(answerer.new_tokens(part, outputs) for part, outputs in answers))
    return {
        "rows": size,
        "calls": calls,
        "median_seconds": float(np.median(times)),
        "least_seconds": min(times),
        "most_seconds": max(times),
        "rows_per_second": size * calls / sum(times),
        "tokens": tokens,  # of all calls
        "tokens_per_second": None if tokens is None else tokens / sum(times),
    }


def _sum(*counts: int | None) -> int | None:
    return None if None in counts else sum(counts)


def _answers(answerer: Answerer, values: list) -> list[tuple]:
    return [(part, answerer.call(part)) for part in answerer.parts(values)]


def _made_up(runner: Runner, rows: int, length: int) -> tuple[list, dict]:
    """Values for rows of inputs, and what to say of them."""
    random = np.random.default_rng(0)
    shapes = {x.name: _row_shape(runner, x, length) for x in runner.inputs}
    values = [{x.name: _row(runner, x, shapes[x.name], random) for x in runner.inputs} for _ in range(rows)]
    return values, {"made_up": True, "shapes": {name: list(shape) for name, shape in shapes.items()}}


def _row_shape(runner: Runner, x: Input, length: int) -> tuple:
    if runner.has_prompts:
        length = min(length, max(1, runner.metadata["max_length"] // 2))  # so that something is generated
    dimensions = (None,) if x.shape is None else x.shape[1:]
    rooms = runner.row_shape(x)
    return tuple(
        (min(length, room or length) if size is None and x.padded else room)
        for size, room in zip(dimensions, rooms, strict=True)
    )


def _row(runner: Runner, x: Input, shape: tuple, random: np.random.Generator):
    if x.dtype == "string":
        return np.full(shape, "word", object)
    if x.vocabulary_size is not None:
        special = {x.padding_id, runner.metadata.get("start_token"), *(runner.metadata.get("end_tokens") or ())}
        ids = [token for token in range(x.vocabulary_size) if token not in special] or [0]
        return random.choice(ids, shape)
    if x.dtype is None or x.dtype == "bool" or "int" in x.dtype:
        return np.ones(shape, "int32")
    return random.normal(size=shape).astype("float32")
