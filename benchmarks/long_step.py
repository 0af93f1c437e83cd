"""A training step of a language model on one long sequence: what attention in blocks makes possible.

12 layers of width 512, 8 heads, vocabulary 8,000, one sequence of 16,384 tokens, float32, through `model.fit` with
`SequenceCrossentropy` and Adam, on the CPU. Each backend has a process of its own; its memory is the peak of the
resident memory, all that Python and the libraries hold included. "scores" is what the scores of one layer alone would
take.

    python benchmarks/long_step.py
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

from report import QUICK, make_parser, save_results

LAYERS, WIDTH, HEADS, VOCABULARY, LENGTH = (2, 8, 2, 40, 32) if QUICK else (12, 512, 8, 8000, 16384)


def measure(backend: str, layers: int, length: int, steps: int) -> dict:
    """Time of a step, loss and peak memory, of this process."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras
    import numpy as np

    import keras_transformer as kt

    keras.utils.set_random_seed(0)
    model = kt.models.language_model(vocabulary_size=VOCABULARY, num_layers=layers, dim=WIDTH, num_heads=HEADS)
    model.compile(keras.optimizers.Adam(1e-3), kt.training.SequenceCrossentropy())
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (1, length + 1)).astype("int32")
    seconds, losses = [], []
    for _ in range(steps):
        begin = time.perf_counter()
        losses += model.fit(ids[:, :-1], ids[:, 1:], batch_size=1, verbose=0).history["loss"]
        seconds.append(time.perf_counter() - begin)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"first_step_s": seconds[0], "step_s": seconds[-1], "losses": losses, "peak_gib": peak / 2**30}


def main() -> None:
    """Measure both backends, print, save."""
    parser = make_parser(__doc__, "long_step")
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax"])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(measure(options.one, options.layers, options.length, options.steps)))
    figures = {}
    for backend in options.backends:
        command = [sys.executable, __file__, "--one", backend, "--layers", str(options.layers)]
        command += ["--length", str(options.length), "--steps", str(options.steps)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures[backend] = one = json.loads(printed.splitlines()[-1])
        print(f"{backend:12}{one['step_s']:8.1f} s a step, {one['peak_gib']:5.1f} GiB, losses {one['losses']}")
    scores = HEADS * options.length**2 * 4 / 2**30
    print(f"The scores of a layer would take {scores:.1f} GiB.")
    settings = {"layers": options.layers, "width": WIDTH, "heads": HEADS, "vocabulary": VOCABULARY}
    settings |= {"length": options.length, "seed": 0, "scores_of_a_layer_gib": scores}
    save_results(options.output, "benchmarks/long_step.py", {**settings, **figures})


if __name__ == "__main__":
    main()
