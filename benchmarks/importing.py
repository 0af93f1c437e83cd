"""What `import keras_transformer` adds to `import keras`: seconds and memory, in fresh processes, on each backend.

Two kinds of processes take turns, `import keras` alone and `import keras; import keras_transformer`; the first turn of
each is not counted: there Python compiles the modules and the system reads the files. "added" is what the second import
takes in the process that makes both; "difference" is the whole of that process's imports less that of its neighbour's
one import, with all the noise of two processes. Python's garbage collector passes over all that was made so far when
enough has been made since its last pass; whether such a pass over Keras and its backend falls into the second import is
chance, so "of which collector" tells its share. All are medians. "modules" counts what the second import loads, and
"others" names those that are not of this package.

    python benchmarks/importing.py
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys

from report import QUICK, REPOSITORY, make_parser, save_results

BACKENDS = ("tensorflow", "jax", "torch")
KERAS, BOTH = "import keras", "import keras; import keras_transformer"
PROGRAM = """
import gc, json, resource, sys, time

passes = []
gc.callbacks.append(lambda phase, _: passes.append(time.perf_counter()))
seconds, memory, loaded = [time.perf_counter()], [], [set()]
for name in sys.argv[1:]:
    passes.clear()
    __import__(name)
    seconds.append(time.perf_counter())
    memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    loaded.append(set(sys.modules))
print(json.dumps({
    "seconds": [after - before for before, after in zip(seconds, seconds[1:])],
    "collector": sum(passes[1::2]) - sum(passes[::2]),
    "mib": memory,
    "new": sorted(loaded[-1] - loaded[-2]),
}))
"""


def run(backend: str, way: str) -> dict:
    """A fresh process, which may keep the bytecode that it compiles."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    names = [part.split()[1] for part in way.split("; ")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"`{way}` failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(backend: str, rounds: int) -> dict:
    """Both kinds of processes in turns."""
    turns = [{way: run(backend, way) for way in (KERAS, BOTH)} for _ in range(rounds + 1)][1:]
    added = [turn[BOTH]["seconds"][1] for turn in turns]
    new = turns[0][BOTH]["new"]
    others = [name for name in new if not name.startswith("keras_transformer")]
    return {
        "keras_seconds": statistics.median(turn[KERAS]["seconds"][0] for turn in turns),
        "added_seconds": statistics.median(added),
        "collector_seconds": statistics.median(turn[BOTH]["collector"] for turn in turns),
        "difference_seconds": statistics.median(
            sum(turn[BOTH]["seconds"]) - turn[KERAS]["seconds"][0] for turn in turns
        ),
        "added_mib": statistics.median(turn[BOTH]["mib"][1] - turn[BOTH]["mib"][0] for turn in turns),
        "modules": len(new),
        "others": others,
        "added_seconds_of_rounds": added,
    }


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, "importing")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 5)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=None, help="default: those installed")
    options = parser.parse_args()
    figures = {}
    heads = f"{'':12}{'keras, s':>10}{'added, s':>10}{'of which collector':>20}{'difference, s':>15}"
    print(f"{heads}{'added MiB':>11}{'modules':>9}  others")
    for backend in options.backends or filter(importlib.util.find_spec, BACKENDS[: 1 if QUICK else 3]):
        row = figures[backend] = measure(backend, options.rounds)
        print(
            f"{backend:12}{row['keras_seconds']:10.2f}{row['added_seconds']:10.3f}{row['collector_seconds']:20.3f}"
            f"{row['difference_seconds']:15.3f}"
            f"{row['added_mib']:11.1f}{row['modules']:9}  {', '.join(row['others'])}",
            flush=True,
        )
    save_results(options.output, "benchmarks/importing.py", {"rounds": options.rounds, "backends": figures})


if __name__ == "__main__":
    main()
