"""The projection to the vocabulary and its loss, forward and backward: time and memory of each way.

4,096 hidden states of width 512, a table of 100,000 rows, float32, on the CPU; the gradients of both. Ways: the logits
and Keras' `SparseCategoricalCrossentropy`, the logits and `SequenceCrossentropy`, and `TiedCrossentropy`. Each figure
comes from a process of its own; its memory is how far the process' resident memory rises, at the peak, above what it
was before the first step.

    python benchmarks/losses.py
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

BATCH, LENGTH, WIDTH, VOCABULARY = (2, 8, 16, 500) if QUICK else (8, 512, 512, 100_000)
WAYS = ("keras", "sequence", "tied")


def resident() -> int:
    """Bytes of this process' memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def loss_of(way: str, embedding, block: int | None, keras, kt):
    """A function of hidden states and labels."""
    if way == "tied":
        layer = kt.training.TiedCrossentropy(embedding, block_size=block)

        def loss(hidden, labels):
            layer(hidden, labels, training=True)
            return layer.losses[0]

        return layer, loss
    judge = {
        "keras": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "sequence": kt.training.SequenceCrossentropy(),
    }[way]
    return embedding, lambda hidden, labels: judge(labels, embedding(hidden, reverse=True))


def measure(framework: str, way: str, steps: int, block: int | None) -> dict:
    """Time of a step and peak memory, of this process."""
    os.environ["KERAS_BACKEND"] = framework
    import keras
    import numpy as np

    import keras_transformer as kt

    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    hidden = keras.ops.convert_to_tensor(random.normal(size=(BATCH, LENGTH, WIDTH)).astype("float32"))
    labels = keras.ops.convert_to_tensor(random.integers(1, VOCABULARY, (BATCH, LENGTH)).astype("int32"))
    embedding = kt.TokenEmbedding(VOCABULARY, WIDTH)
    embedding.build()
    layer, loss_function = loss_of(way, embedding, block, keras, kt)
    layer.built or layer.build((None, None, WIDTH))
    table = embedding.embeddings
    if framework == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def gradients(hidden, labels):
            with tf.GradientTape() as tape:
                tape.watch(hidden)
                loss = loss_function(hidden, labels)
            return loss, tape.gradient(loss, [hidden, table.value])

        concrete = gradients.get_concrete_function(hidden, labels)

        def step():
            loss, found = concrete(hidden, labels)
            return float(loss), float(found[0][0, 0, 0]), float(found[1][0, 0])
    else:
        import jax

        def value(hidden, weights, labels):
            with keras.StatelessScope(state_mapping=[(table, weights)], collect_losses=True):
                return loss_function(hidden, labels)

        compiled = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(hidden, table.value, labels).compile()

        def step():
            loss, found = compiled(hidden, table.value, labels)
            return float(loss), float(found[0][0, 0, 0]), float(found[1][0, 0])

    before, seconds = resident(), []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        values = step()
        seconds.append(time.perf_counter() - begin)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": 1000 * statistics.median(seconds[1:]), "mib": (peak - before) / 2**20, "values": values}


def main() -> None:
    """Measure all in turns, print, save."""
    parser = make_parser(__doc__, "losses")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 2)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--frameworks", nargs="+", default=("tensorflow", "jax"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--block", type=int, help="block_size of TiedCrossentropy")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(measure(*options.one, options.steps, options.block)))
    cases = [(framework, way) for framework in options.frameworks for way in options.ways]
    runs = {case: [] for case in cases}
    for done in range(1, options.rounds + 1):
        for case in cases:
            command = [sys.executable, __file__, "--steps", str(options.steps), "--one", *case]
            command += ["--quick"] if QUICK else []
            command += ["--block", str(options.block)] if options.block else []
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[case].append(json.loads(printed.splitlines()[-1]))
        figures = {}
        for (framework, way), found in runs.items():
            one = {key: statistics.median(run[key] for run in found) for key in ("ms", "mib")}
            figures[f"{framework} {way}"] = {**one, "values": found[0]["values"]}
        sizes = {"tokens": BATCH * LENGTH, "width": WIDTH, "vocabulary": VOCABULARY}
        save_results(options.output, "benchmarks/losses.py", {**sizes, "rounds": done, "seed": 0, **figures})
    for name, one in figures.items():
        print(f"{name:24}{one['ms']:10.1f} ms{one['mib']:9.0f} MiB   loss and gradients {one['values']}")


if __name__ == "__main__":
    main()
