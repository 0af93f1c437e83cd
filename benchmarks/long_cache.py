"""A decoding step of a LiteRT file with few and with many slots: slices in place, against the version before.

A language model of 4 layers, width 256, 4 heads, vocabulary 1,000, random weights, exported by
`kt.export.litert(layout="step")` with one row and 256, 1,024 and 4,096 slots; a prompt of 4 tokens; float32. What is
timed is `keras_transformer_runtime.load(...).stream(...)`, a token at a time, as a program uses it. With `--before` the
same is done by another checkout, with its own exporter and its own runtime, in turns in the same run.

"rate" is the machine's memory rate: bytes of an array of 512 MiB over the time of NumPy's sum of it, by one process,
and by two at once. "read" is what one pass over the weights and the caches would take at the rate of as many processes
as LiteRT has threads; a step reads both once, and writes one slot.

    git worktree add /tmp/before ca08ff5 && python benchmarks/long_cache.py --before /tmp/before
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from report import QUICK, REPOSITORY, make_parser, save_results

LAYERS, WIDTH, HEADS, VOCABULARY = (1, 16, 2, 50) if QUICK else (4, 256, 4, 1000)
SLOTS = (16, 32) if QUICK else (256, 1024, 4096)
THREADS = (1,) if QUICK else (1, 2)
PROMPT = [5, 6, 7, 8]


def write(path: Path, slots: int) -> None:
    """The file, by the version of this process."""
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    import keras

    import keras_transformer as kt

    keras.utils.set_random_seed(0)
    model = kt.models.language_model(VOCABULARY, num_layers=LAYERS, dim=WIDTH, num_heads=HEADS)
    generator = kt.Generator(model, max_length=slots, end_token=None)
    kt.export.litert(generator, path, source_length=min(slots, 64), layout="step", verify=False)
    print(json.dumps({"weights": sum(int(np.prod(x.shape)) for x in model.weights)}))


def measure(path: Path, threads: int, steps: int) -> None:
    """Milliseconds of each step, and the tokens."""
    from keras_transformer_runtime import load

    stream = load(path, num_threads=threads).stream(np.array([PROMPT], "int32"))
    milliseconds, tokens, begin = [], [], time.perf_counter()
    for token in stream:
        end = time.perf_counter()
        milliseconds.append(1e3 * (end - begin))
        tokens.append(int(token[0]))
        begin = end
        if len(tokens) == steps:
            break
    print(json.dumps({"ms": statistics.median(milliseconds[1:]), "tokens": tokens}))


def run(version: Path, *arguments) -> dict:
    """This script with another version of the packages, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(version)}
    quick = ["--quick"] if QUICK else []
    command = [sys.executable, __file__, *map(str, arguments), *quick]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def sum_seconds(_=None) -> float:
    """Of NumPy's sum of an array that no cache holds: the best of five."""
    array = np.ones(2**18 if QUICK else 2**27, np.float32)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - begin)
    return array.nbytes / min(seconds)


def rates() -> dict:
    """Bytes a second, of one process and of two at once."""
    with ProcessPoolExecutor(2) as pool:
        both = sum(pool.map(sum_seconds, range(2)))
    return {"1": sum_seconds(), "2": both}


def main() -> None:
    """Measure in turns, print, save."""
    parser = make_parser(__doc__, "long_cache")
    parser.add_argument("--before", type=Path, help="folder with another version of the packages, to compare with")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 5)
    parser.add_argument("--steps", type=int, default=4 if QUICK else 60)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        return write(Path(options.write[0]), int(options.write[1]))
    if options.one:
        return measure(Path(options.one[0]), int(options.one[1]), options.steps)
    versions = {"now": REPOSITORY, **({"before": options.before.resolve()} if options.before else {})}
    report = {"layers": LAYERS, "width": WIDTH, "vocabulary": VOCABULARY, "prompt": len(PROMPT), "seed": 0, "steps": []}
    report["rate"] = rates()
    with tempfile.TemporaryDirectory() as folder:
        for slots in SLOTS:
            files = {name: Path(folder) / f"{name}_{slots}.tflite" for name in versions}
            weights = [run(version, "--write", files[name], slots)["weights"] for name, version in versions.items()][0]
            moved = 4 * (weights + 2 * LAYERS * slots * WIDTH)
            for threads in THREADS:
                found = {name: [] for name in versions}
                for number in range(options.rounds):
                    for name in list(versions) if number % 2 == 0 else list(versions)[::-1]:
                        found[name].append(run(versions[name], "--one", files[name], threads, "--steps", options.steps))
                if len({tuple(x["tokens"]) for results in found.values() for x in results}) != 1:
                    raise SystemExit("The versions differ in their tokens.")
                row = {"slots": slots, "threads": threads, "mib": moved / 2**20}
                row |= {f"{name}_ms": [x["ms"] for x in results] for name, results in found.items()}
                now = statistics.median(row["now_ms"])
                row["read_ms"] = 1e3 * moved / report["rate"][str(threads)]
                row["over_read"] = now / row["read_ms"]
                if options.before:
                    row["speedup"] = statistics.median(row["before_ms"]) / now
                report["steps"].append(row)
                print({key: round(x, 2) if isinstance(x, float) else x for key, x in row.items()}, flush=True)
    save_results(options.output, "benchmarks/long_cache.py", report)


if __name__ == "__main__":
    main()
