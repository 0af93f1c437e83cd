"""What settings around the model gain on TensorFlow on the CPU: kept memory and oneDNN, by a training step.

A two-layer LSTM of 510 units and a three-layer Transformer of width 256, on 128 random sequences of 8 to 24 tokens a
step, in three ways:

    default  TensorFlow as it is
    kept     with `kt.training.keep_freed_memory()`
    onednn   that, and TF_ENABLE_ONEDNN_OPTS=1, which is TensorFlow's default only where it sees AVX512-VNNI

Each way runs in a process of its own, and they take turns. Processor time is what the operating system counts, for the
program and, as system time, for making and clearing pages.

    python benchmarks/cpu_training.py
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from report import QUICK, make_parser, save_results

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

VOCABULARIES, BATCH = ((70, 50), 4) if QUICK else ((7887, 5921), 128)
SHORTEST, LONGEST = 8, 24
LSTM_DIM, DIM, INNER = (16, 16, 32) if QUICK else (510, 256, 512)
MODELS = ("lstm", "transformer")
WAYS = {"default": {}, "kept": {}, "onednn": {"TF_ENABLE_ONEDNN_OPTS": "1"}}  # environment variables of each


def train(name: str, way: str, steps: int) -> dict:
    """Milliseconds of a step, and the memory of this process at its peak."""
    import keras
    import numpy as np

    import keras_transformer as kt

    if way != "default" and not kt.training.keep_freed_memory():
        raise SystemExit("The C library of this system is not glibc; there is nothing to compare.")
    keras.utils.set_random_seed(0)
    if name == "lstm":
        model = kt.models.recurrent_seq2seq(*VOCABULARIES, cell="lstm", dim=LSTM_DIM, num_layers=2, dropout=0.2)
    else:
        model = kt.models.transformer(*VOCABULARIES, num_layers=3, dim=DIM, intermediate_dim=INNER, dropout=0.2)
    model.compile("adam", kt.training.SequenceCrossentropy())

    def batches():
        random = np.random.default_rng(0)
        while True:
            source, target, labels = (
                random.integers(1, min(VOCABULARIES), (BATCH, length))
                for length in random.integers(SHORTEST, LONGEST + 1, 2)[[0, 1, 1]]
            )
            yield (source, target), labels

    model.fit(batches(), steps_per_epoch=5, shuffle=False, verbose=0)  # traces
    before, begin = os.times(), time.perf_counter()
    model.fit(batches(), steps_per_epoch=steps, shuffle=False, verbose=0)
    wall, after = time.perf_counter() - begin, os.times()
    return {
        "wall_ms": 1000 * wall / steps,
        "user_ms": 1000 * (after.user - before.user) / steps,
        "system_ms": 1000 * (after.system - before.system) / steps,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def main() -> None:
    """Measure in turns, print, save."""
    parser = make_parser(__doc__, "cpu_training")
    parser.add_argument("--steps", type=int, default=2 if QUICK else 15)
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 3)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        return print(json.dumps(train(*options.run, options.steps)))
    figures = {}
    print(f"{'ms a step':22}{'wall':>8}{'user':>8}{'system':>8}{'peak MB':>10}")
    for name in MODELS:
        runs = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--run", name, way, "--steps", str(options.steps)]
                environment = {**os.environ, **WAYS[way]}
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
                runs[way].append(json.loads(printed.splitlines()[-1]))
        one = {way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]} for way in WAYS}
        for way in WAYS:
            print(
                f"{name + ', ' + way:22}"
                + "".join(f"{value:{10 if 'peak' in key else 8}.0f}" for key, value in one[way].items())
            )
        speed = {way: one["default"]["wall_ms"] / one[way]["wall_ms"] for way in WAYS}
        figures[name] = {**one, "speed": speed}
        print(
            f"{name}: " + ", ".join(f"{way} {gain:.2f}" for way, gain in speed.items()) + " times as fast", flush=True
        )
    settings = {
        "batch": BATCH,
        "lengths": [SHORTEST, LONGEST],
        "steps": options.steps,
        "rounds": options.rounds,
        "seed": 0,
    }
    save_results(options.output, "benchmarks/cpu_training.py", {**settings, "models": figures})


if __name__ == "__main__":
    main()
