"""Attention alone, forward and backward: time and memory of each way, by the length of the sequence.

One layer's attention, batch 1, 8 heads of 64, causal, float32, on the CPU: exact and blockwise on TensorFlow, what
`kt.ops.attention_kernel("auto")` chooses, a window of 512, `keras.layers.MultiHeadAttention`'s core and PyTorch's
`scaled_dot_product_attention`. Each figure comes from a process of its own; its memory is how far the process' resident
memory rises, at the peak, above what it was before the first step.

    python benchmarks/attention.py
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

HEADS, WIDTH, WINDOW = (2, 4, 8) if QUICK else (8, 64, 512)
LENGTHS = (16, 32) if QUICK else (512, 1024, 4096, 8192, 16384)
WAYS = ("exact", "blockwise", "auto", "window", "keras", "torch")
LONGEST = {"exact": 8192, "keras": 8192}  # beyond, the scores of a step want tens of GB


def attention(way: str):
    """A function of query, key and value, (1, T, H, K), and the framework that it runs on."""
    if way == "torch":
        import torch

        def attend(query, key, value):
            heads = (x.transpose(1, 2) for x in (query, key, value))
            return torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)

        return attend, "torch"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    import keras_transformer as kt

    if way == "keras":
        return lambda *x: keras.ops.dot_product_attention(*x, is_causal=True), "tensorflow"
    kernel = "auto" if way == "auto" else "exact" if way == "exact" else "blockwise"

    def attend(query, key, value):
        with kt.ops.attention_kernel(kernel):
            return kt.ops.dot_product_attention(
                query, key, value, causal=True, window=WINDOW if way == "window" else None
            )

    return attend, "tensorflow"


def resident() -> int:
    """Bytes of this process' memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(way: str, length: int, steps: int) -> dict:
    """Time of a step and peak memory, of this process."""
    import numpy as np

    attend, framework = attention(way)
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(1, length, HEADS, WIDTH)).astype("float32") for _ in range(4)]
    if framework == "torch":
        import torch

        tensors = [torch.tensor(x, requires_grad=i < 3) for i, x in enumerate(arrays)]

        def step():
            for x in tensors[:3]:
                x.grad = None
            (attend(*tensors[:3]) * tensors[3]).sum().backward()
            return float(tensors[0].grad[0, 0, 0, 0])
    else:
        import tensorflow as tf

        tensors = [tf.constant(x) for x in arrays]

        @tf.function
        def gradients(query, key, value, upstream):
            with tf.GradientTape() as tape:
                tape.watch([query, key, value])
                loss = tf.reduce_sum(attend(query, key, value) * upstream)
            return tape.gradient(loss, [query, key, value])

        concrete = gradients.get_concrete_function(*tensors)

        def step():
            return float(concrete(*tensors)[0][0, 0, 0, 0])

    before, seconds = resident(), []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        value = step()
        seconds.append(time.perf_counter() - begin)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": 1000 * statistics.median(seconds[1:]), "mib": (peak - before) / 2**20, "first_gradient": value}


def main() -> None:
    """Measure all in turns, print, save."""
    parser = make_parser(__doc__, "attention")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 2)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, length, steps = options.one
        return print(json.dumps(measure(way, int(length), int(steps))))
    cases = [(w, n) for n in options.lengths for w in options.ways if n <= LONGEST.get(w, n)]
    runs = {case: [] for case in cases}
    for _ in range(options.rounds):
        for way, length in cases:
            steps = 2 if length > 4096 else 5 if length > 1024 else 15
            command = [sys.executable, __file__, "--one", way, str(length), str(steps)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[way, length].append(json.loads(printed.splitlines()[-1]))
    figures = {
        f"{way} {length}": {key: statistics.median(run[key] for run in found) for key in ("ms", "mib")}
        for (way, length), found in runs.items()
    }
    for name, one in figures.items():
        print(f"{name:18}{one['ms']:10.1f} ms{one['mib']:9.0f} MiB")
    settings = {"heads": HEADS, "width": WIDTH, "window": WINDOW, "rounds": options.rounds, "seed": 0}
    save_results(options.output, "benchmarks/attention.py", {**settings, **figures})


if __name__ == "__main__":
    main()
