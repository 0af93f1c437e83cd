"""Attention, forward and backward: time and memory of each way, by the length of the sequence.

Batch 1, 8 heads of 64, causal, float32, on the CPU. Attention alone, gradients of query, key and value: exact and
blockwise on TensorFlow, what `kt.ops.attention_kernel("auto")` chooses, a window of 512, Keras'
`keras.ops.dot_product_attention` and PyTorch's `scaled_dot_product_attention`. Layers with their projections, gradients
of the input and of all weights: `kt.MultiHeadSelfAttention` with what is chosen and with the window,
`keras.layers.MultiHeadAttention`, and PyTorch's function between two `torch.nn.Linear`. Each figure comes from a
process of its own; its memory is how far the process' resident memory rises, at the peak, above what it was before the
first step.

    python benchmarks/attention.py
"""

import argparse
import functools
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
ALONE = ("exact", "blockwise", "auto", "window", "keras", "torch")
LAYERS = ("layer-auto", "layer-window", "layer-keras", "layer-torch")
LONGEST = {"exact": 8192, "keras": 8192, "layer-keras": 8192}  # beyond, the scores of a step want tens of GB


def torch_step(way: str, arrays: list, upstream):
    """A function that makes a step in PyTorch and returns a number of the first gradient."""
    import torch

    torch.manual_seed(0)
    project, back = torch.nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH), torch.nn.Linear(HEADS * WIDTH, HEADS * WIDTH)
    inputs, upstream = [torch.tensor(x, requires_grad=True) for x in arrays], torch.tensor(upstream)

    def attend(*heads):
        heads = (x.transpose(1, 2) for x in heads)
        return torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)

    def layer(x):
        return back(attend(*project(x).reshape(1, -1, 3, HEADS, WIDTH).unbind(2)).reshape(x.shape))

    function = layer if way.startswith("layer") else attend

    def step():
        for x in (*inputs, *project.parameters(), *back.parameters()):
            x.grad = None
        (function(*inputs) * upstream).sum().backward()
        return float(inputs[0].grad.flatten()[0])

    return step


def tensorflow_step(way: str, arrays: list, upstream):
    """A function that makes a step on TensorFlow and returns a number of the first gradient."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    import keras_transformer as kt

    keras.utils.set_random_seed(0)
    inputs, upstream = [tf.constant(x) for x in arrays], tf.constant(upstream)
    window, weights = WINDOW if way.endswith("window") else None, []
    if way == "layer-keras":
        layer = keras.layers.MultiHeadAttention(HEADS, WIDTH)
        layer.build(inputs[0].shape, inputs[0].shape)

        def function(x):
            return layer(x, x, use_causal_mask=True)
    elif way.startswith("layer"):
        function = layer = kt.MultiHeadSelfAttention(HEADS, causal=True, window=window)
        layer.build(inputs[0].shape)
    elif way == "keras":
        function = functools.partial(keras.ops.dot_product_attention, is_causal=True)
    else:
        function = functools.partial(kt.ops.dot_product_attention, causal=True, window=window)
    if way.startswith("layer"):
        weights = [variable.value for variable in layer.trainable_variables]

    @tf.function
    def gradients(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(function(*inputs) * upstream)
        return tape.gradient(loss, [*inputs, *weights])

    with kt.ops.attention_kernel(way if way in ("exact", "blockwise") else "auto"):
        concrete = gradients.get_concrete_function(*inputs)
    return lambda: float(tf.reshape(concrete(*inputs)[0], [-1])[0])


def resident() -> int:
    """Bytes of this process' memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(way: str, length: int, steps: int) -> dict:
    """Time of a step and peak memory, of this process."""
    import numpy as np

    random = np.random.default_rng(0)
    count, shape = (1, (1, length, HEADS * WIDTH)) if way.startswith("layer") else (3, (1, length, HEADS, WIDTH))
    arrays = [random.normal(size=shape).astype("float32") for _ in range(count + 1)]
    step = (torch_step if way.endswith("torch") else tensorflow_step)(way, arrays[:count], arrays[count])
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
    parser.add_argument("--ways", nargs="+", choices=ALONE + LAYERS, default=ALONE + LAYERS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, length, steps = options.one
        return print(json.dumps(measure(way, int(length), int(steps))))
    cases = [(w, n) for n in options.lengths for w in options.ways if n <= LONGEST.get(w, n)]
    runs = {case: [] for case in cases}
    settings = {"heads": HEADS, "width": WIDTH, "window": WINDOW, "seed": 0}
    for done in range(1, options.rounds + 1):
        for way, length in cases:
            steps = 1 if length > 8192 else 2 if length > 4096 else 5 if length > 1024 else 15
            command = [sys.executable, __file__, "--one", way, str(length), str(steps)]
            command += ["--quick"] if QUICK else []
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[way, length].append(json.loads(printed.splitlines()[-1]))
            one = runs[way, length][-1]
            print(f"{way:14}{length:6}{one['ms']:10.1f} ms{one['mib']:9.0f} MiB", flush=True)
        figures = {
            f"{way} {length}": {key: statistics.median(run[key] for run in found) for key in ("ms", "mib")}
            for (way, length), found in runs.items()
        }
        save_results(options.output, "benchmarks/attention.py", {**settings, "rounds": done, **figures})


if __name__ == "__main__":
    main()
