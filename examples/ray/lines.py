"""`keras-transformer run` on all machines of a Ray cluster: the same options, and the same files to the byte.

    python examples/ray/lines.py EXPORT --input lines.txt --output answers.txt --errors errors.jsonl --resume

Ray Data hands out parts of the file. A task reads its part, answers it batch by batch and hands the answers back; here
the command writes them, in the order of the lines. Batch k holds the same lines and has the same seed as without Ray,
whoever answers it, so nothing depends on how many workers there are, or on which of them die: Ray does their parts
again. What was stopped goes on with --resume, here or by the command.

The export and the input have the same path on every machine, and the same content: both are checked.
"""

import argparse
import functools
import io
import itertools
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

import keras_transformer_runtime
from keras_transformer_runtime.answering import Answer, Answerer, one_line
from keras_transformer_runtime.command import Failure, main
from keras_transformer_runtime.lines import Refusal, read_lines
from keras_transformer_runtime.resuming import fingerprint

RETRIES = 5  # of a part whose worker dies


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The options of the cluster, and those of the command."""

    def positive(text: str) -> int:
        if int(text) < 1:
            raise ValueError
        return int(text)

    about = "All other options are those of `keras-transformer run`: see keras-transformer run --help."
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", metavar="N", type=positive, help="tasks at a time (default: as many as have room)")
    parser.add_argument("--cpus", metavar="N", type=positive, default=1, help="threads of each (default: 1)")
    parser.add_argument(
        "--part", metavar="N", type=positive, default=1000, help="lines of a task, about: what is done again if it dies"
    )
    return parser.parse_known_args()


def answered_by_cluster(
    cluster: argparse.Namespace, options: argparse.Namespace, answerer: Answerer, lines: Iterator, size: int, first: int
) -> Iterator[tuple[list[tuple[int, bytes]], list[Answer]]]:
    """In place of the command's `answered_here`: lines and their answers, in order, part by part.

    Tasks and not actors: when a machine is gone, its tasks go to others at once, and an actor waits for room.
    """
    if options.input is None or options.output is None:
        raise Refusal("Workers read parts of a file, and here their answers are written: give --input and --output.")
    work = {
        "export": str(options.export.resolve()),
        "fingerprint": fingerprint(options.export),
        "input": str(options.input.resolve()),
        "form": answerer.form,
        "seed": answerer.seed,
        "size": size,
        "threads": cluster.cpus,
    }
    parts = list(cut(options.input, first * size, max(1, cluster.part // size) * size))
    workers = set()
    for part, found in zip(parts, on_all_machines(parts, work, cluster), strict=True):
        if found["failure"]:
            raise Failure(found["failure"])
        numbered = list(itertools.islice(lines, part["lines"]))
        answers = [Answer(*answer) for answer in json.loads(found["answers"])]
        first = numbered[0][0] if numbered else None
        if not (first == found["first"] == part["first"] and len(numbered) == len(answers) == part["lines"]):
            raise Failure(f"'{options.input}' has changed since the run began.")
        workers.add((found["machine"], found["process"]))
        yield numbered, [Answer(record, error and ValueError(error)) for record, error in answers]
    machines = len({machine for machine, _ in workers})
    print(f"Answered by {len(workers)} processes on {machines} machines.", file=sys.stderr)


def cut(path: Path, skipped: int, count: int) -> Iterator[dict]:
    """Where the parts of a file are, of `count` lines each, behind those skipped; the first line of all is 1."""
    with open(path, "rb") as file:
        first = sum(1 for _ in itertools.islice(file, skipped)) + 1
        start = file.tell()
        while lines := list(itertools.islice(file, count)):
            content = b"".join(lines)
            checksum = zlib.crc32(content)
            yield {"first": first, "lines": len(lines), "start": start, "bytes": len(content), "checksum": checksum}
            first, start = first + len(lines), start + len(content)


def on_all_machines(parts: list[dict], work: dict, cluster: argparse.Namespace) -> Iterator[dict]:
    """What `answer_part` returns for each part, in order."""
    if not parts:
        return
    ray.init(log_to_driver=False, logging_level="warning")
    logging.getLogger("ray.data").setLevel("WARNING")
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    tasks = ray.data.TaskPoolStrategy(cluster.workers)
    rows = ray.data.from_items(parts, override_num_blocks=len(parts))
    rows = rows.map(answer_part, fn_args=[work], compute=tasks, num_cpus=cluster.cpus, max_retries=RETRIES)
    try:
        yield from rows.iter_rows()
    except ray.exceptions.RayError as error:
        raise Failure(
            f"Ray gave up, after {RETRIES} retries where a worker died: {one_line(error)} (What was answered stays; "
            "with --resume and a small --part it ends near the line that is to blame, if one is.)"
        ) from error
    finally:
        ray.shutdown()


def answer_part(part: dict, work: dict) -> dict:
    """A task: the answers to the lines of a part, each as its record and its error, of which one is None."""
    machine = ray.get_runtime_context().get_node_id()
    found = {"first": part["first"], "machine": machine, "process": os.getpid(), "failure": "", "answers": b"[]"}
    answers, size = [], work["size"]
    try:
        answerer = loaded(work)
        lines = read_part(part, Path(work["input"]))
        for start in range(0, len(lines), size):
            answers += answerer(lines[start : start + size], (part["first"] - 1 + start) // size)
    except Exception as error:  # of no line: of files, or of packages, on this machine
        return {**found, "failure": f"On the machine {ray.util.get_node_ip_address()}: {one_line(error)}"}
    answers = [(answer.record, None if answer.error is None else answer.message) for answer in answers]
    return {**found, "answers": json.dumps(answers).encode()}


def loaded(work: dict) -> Answerer:
    """The export, which a worker process loads once. Ray hands over this file with each task anew: what is to stay is
    kept in a module."""
    kept = vars(keras_transformer_runtime).setdefault("kept_for_lines", {})
    key = json.dumps(work)
    if key not in kept:
        export, threads = Path(work["export"]), str(work["threads"])
        os.environ |= {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
        runner = keras_transformer_runtime.load(export, num_threads=work["threads"])
        if fingerprint(export) != work["fingerprint"]:
            raise ValueError(f"'{export}' is another export than where the run was started.")
        kept[key] = Answerer(runner, work["form"], work["seed"])
    return kept[key]


def read_part(part: dict, path: Path) -> list[bytes]:
    """The lines of a part."""
    with open(path, "rb") as file:
        file.seek(part["start"])
        content = file.read(part["bytes"])
    if zlib.crc32(content) != part["checksum"]:
        raise ValueError(f"'{path}' is another file than where the run was started, or has changed since.")
    return list(read_lines(io.BytesIO(content), from_beginning=part["first"] == 1))


def run() -> int:
    """The script; returns the command's exit status."""
    cluster, arguments = parse()
    return main(["run", *arguments], answered=functools.partial(answered_by_cluster, cluster))


if __name__ == "__main__":
    sys.exit(run())
