"""What `kt.training.Remat` saves and what it costs: memory and time of a training step, with it and without.

A language model of eight decoder layers, width 64, on 16 sequences of 256 tokens, on TensorFlow on the CPU. Each way
runs in a process of its own; its memory is how far the process' resident memory rises, at the peak, above what it was
before the first step.

    python benchmarks/rematerialization.py
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from report import QUICK, make_parser, save_results

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

LAYERS, DIM, HEADS, INNER = (1, 8, 2, 16) if QUICK else (8, 64, 4, 256)
VOCABULARY, BATCH, LENGTH = (20, 2, 8) if QUICK else (1000, 16, 256)
WAYS = ("plain", "remat")


def train(way: str, steps: int) -> dict:
    """Peak memory and the time of a step, of this process."""
    import keras
    import numpy as np

    import keras_transformer as kt

    keras.utils.set_random_seed(0)
    x = tokens = keras.Input((None,), dtype="int32")
    x = kt.TokenEmbedding(VOCABULARY, DIM)(x)
    for _ in range(LAYERS):
        layer = kt.DecoderLayer(HEADS, INNER, dropout=0.1)
        x = (kt.training.Remat(layer) if way == "remat" else layer)(x)
    model = keras.Model(tokens, keras.layers.Dense(VOCABULARY)(x))
    model.compile("adam", kt.training.SequenceCrossentropy())
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (BATCH, LENGTH + 1))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    seconds = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        loss = model.train_on_batch(ids[:, :-1], ids[:, 1:])
        seconds.append(time.perf_counter() - begin)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_megabytes": (peak - before) / 1e6,
        "ms_per_step": 1000 * statistics.median(seconds[1:]),  # the first one traces
        "last_loss": float(loss),
    }


def main() -> None:
    """Measure both in turns, print, save."""
    parser = make_parser(__doc__, "rematerialization")
    parser.add_argument("--steps", type=int, default=2 if QUICK else 10)
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return print(json.dumps(train(options.way, options.steps)))
    runs = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--steps", str(options.steps)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[way].append(json.loads(printed.splitlines()[-1]))
    figures = {way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]} for way in WAYS}
    plain, remat = (figures[way] for way in WAYS)
    for way, one in figures.items():
        print(f"{way:6}{one['peak_megabytes']:8.0f} MB{one['ms_per_step']:8.0f} ms a step, loss {one['last_loss']:.4f}")
    ratios = {key: remat[key] / plain[key] for key in ("peak_megabytes", "ms_per_step")}
    print(f"remat / plain: memory {ratios['peak_megabytes']:.2f}, time {ratios['ms_per_step']:.2f}")
    settings = {"layers": LAYERS, "dim": DIM, "heads": HEADS, "intermediate_dim": INNER, "vocabulary_size": VOCABULARY}
    settings |= {"batch": BATCH, "length": LENGTH, "steps": options.steps, "rounds": options.rounds, "seed": 0}
    save_results(options.output, "benchmarks/rematerialization.py", {**settings, **figures, "remat / plain": ratios})


if __name__ == "__main__":
    main()
