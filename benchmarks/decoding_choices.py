"""Which operations the decoding step is made of, and why: cache write, cache layout, argmax, sampling.

One step function has to serve XLA, a SavedModel without XLA ops and LiteRT builtins. Each candidate runs inside a loop
of 32 decoding steps of six attention layers (8 heads of 64), compiled with XLA and as a plain graph, on the CPU:

- write: `scatter` (`ops.scatter_update`), `where` (`ops.where(arange == position, new, cache)`), `slice`
  (`ops.slice_update`, which emits an XLA op and so cannot be in a SavedModel for stock TensorFlow Serving);
- layout: heads first (B, H, L, K), or time first (B, L, H, K);
- argmax over 32,000 logits: max, comparison and min; `ops.top_k(x, 1)`; `ops.argmax` (not a LiteRT builtin);
- the nucleus of top-p 0.9 among 32,000 probabilities: thirty halvings, or a sort;
- a draw from 32,000 weights: in two levels, or a cumulative sum over all.

    python benchmarks/decoding_choices.py
"""

import functools
import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from keras import ops
from report import QUICK, make_parser, save_results

from keras_transformer.decoding.sampling import draw, nucleus_threshold
from keras_transformer.decoding.strategies import argmax

LAYERS, HEADS, WIDTH, STEPS = (1, 2, 4, 2) if QUICK else (6, 8, 64, 32)
SIZES = ((1, 8),) if QUICK else ((1, 128), (32, 128), (8, 1024))  # batch, cache length
VOCABULARY = 300 if QUICK else 32_000


def attend(query, key, value, bias, heads_first: bool):
    """Attention of one new token in either layout."""
    if heads_first:
        return ops.matmul(ops.softmax(ops.matmul(query, ops.swapaxes(key, 2, 3)) + bias), value)
    scores = ops.einsum("bthk,bshk->bhts", query, key) + bias
    return ops.einsum("bhts,bshk->bthk", ops.softmax(scores), value)


def write_scatter(cache, new, positions, heads_first: bool):
    """A scatter at (row, head, position) or (row, position)."""
    batch = cache.shape[0]
    if not heads_first:
        indices = ops.stack([ops.arange(batch, dtype="int32"), positions], axis=-1)
        return ops.scatter_update(cache, indices, new[:, 0])
    rows, heads = np.repeat(np.arange(batch), HEADS), np.tile(np.arange(HEADS), batch)
    indices = ops.stack(
        [ops.convert_to_tensor(rows, "int32"), ops.convert_to_tensor(heads, "int32"), ops.repeat(positions, HEADS)],
        axis=-1,
    )
    return ops.scatter_update(cache, indices, ops.reshape(new, (-1, WIDTH)))


def write_where(cache, new, positions, heads_first: bool):
    """A copy of the cache with one slot chosen from the new token."""
    shape = (1, 1, -1, 1) if heads_first else (1, -1, 1, 1)
    slots = ops.reshape(ops.arange(cache.shape[2 if heads_first else 1], dtype="int32"), shape)
    return ops.where(slots == ops.reshape(positions, (-1, 1, 1, 1)), new, cache)


def write_slice(cache, new, positions, heads_first: bool):
    """A slice update at one position for all rows."""
    return ops.slice_update(cache, (0, 0, positions[0], 0) if heads_first else (0, positions[0], 0, 0), new)


WRITES = {"scatter": write_scatter, "where": write_where, "slice": write_slice}


def decode(token, length: int, write, heads_first: bool):
    """32 steps of a stack of attention layers that write to their caches and read them."""
    batch = token.shape[0]
    shape = (batch, HEADS, length, WIDTH) if heads_first else (batch, length, HEADS, WIDTH)

    def step(index, x, *caches):
        caches, positions = list(caches), ops.broadcast_to(index, (batch,))
        bias = ops.reshape(ops.where(ops.arange(length) <= index, 0.0, -1e9), (1, 1, 1, length))
        for layer in range(LAYERS):
            key, value = 2 * layer, 2 * layer + 1
            caches[key] = write(caches[key], x, positions, heads_first)
            caches[value] = write(caches[value], 0.5 * x, positions, heads_first)
            x = x + attend(x, caches[key], caches[value], bias, heads_first)
        return index + 1, x, *caches

    zeros = [ops.zeros(shape) for _ in range(2 * LAYERS)]
    start = ops.convert_to_tensor(0, "int32")
    return ops.while_loop(lambda index, *_: index < STEPS, step, (start, token, *zeros))[1]


ARGMAX = {
    "max, compare, min": argmax,
    "top_k": lambda x: ops.top_k(x, 1)[1][..., 0],
    "ops.argmax": lambda x: ops.argmax(x, axis=-1),
}


def sorted_threshold(weights):
    """What `nucleus_threshold` finds, from sorted probabilities."""
    descending = -ops.sort(-weights, axis=-1)
    count = ops.sum(ops.cast(ops.cumsum(descending, axis=-1) < 0.9, "int32"), axis=-1, keepdims=True)
    return ops.take_along_axis(descending, count, axis=-1)


def draw_at_once(weights):
    """What `draw` finds, from a cumulative sum over the whole vocabulary."""
    cumulative = ops.cumsum(weights, axis=-1)
    return ops.sum(ops.cast(cumulative <= 0.5 * cumulative[:, -1:], "int32"), axis=-1)


SAMPLING = {
    "nucleus by halving": lambda x: nucleus_threshold(ops.softmax(x), 0.9),
    "nucleus by sorting": lambda x: sorted_threshold(ops.softmax(x)),
    "draw in two levels": lambda x: draw(ops.softmax(x), ops.full((x.shape[0],), 0.5)),
    "draw at once": lambda x: draw_at_once(ops.softmax(x)),
}


def milliseconds(function, argument, jit_compile: bool, repeats: int, steps: int = 1) -> float:
    """Median time of a call, per step."""
    compiled = tf.function(function, jit_compile=jit_compile)
    compiled(argument)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        compiled(argument).numpy()
        seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds) / steps


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, "decoding_choices")
    parser.add_argument("--repeats", type=int, default=1 if QUICK else 7)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    rows = []
    print(f"{'ms a step':34}{'XLA':>10}{'graph':>10}")
    for batch, length in SIZES:
        for heads_first in (True, False):
            for name, write in WRITES.items():
                shape = (batch, HEADS, 1, WIDTH) if heads_first else (batch, 1, HEADS, WIDTH)
                token = tf.constant(random.normal(size=shape).astype("float32"))
                run = functools.partial(decode, length=length, write=write, heads_first=heads_first)
                xla, graph = (milliseconds(run, token, jit, options.repeats, STEPS) for jit in (True, False))
                layout = "heads first" if heads_first else "time first"
                rows.append(
                    {"batch": batch, "length": length, "layout": layout, "write": name, "xla": xla, "graph": graph}
                )
                print(f"{f'{batch} x {length}, {layout}, {name}':34}{xla:10.2f}{graph:10.2f}", flush=True)
    for batch in (1, 32):
        logits = tf.constant(random.normal(size=(batch, VOCABULARY)).astype("float32"))
        for name, function in ARGMAX.items():
            xla, graph = (milliseconds(function, logits, jit, 10 * options.repeats) for jit in (True, False))
            rows.append({"batch": batch, "vocabulary": VOCABULARY, "argmax": name, "xla": xla, "graph": graph})
            print(f"{f'{batch} x {VOCABULARY}, {name}':34}{xla:10.3f}{graph:10.3f}", flush=True)
        for name, function in SAMPLING.items():
            xla, graph = (milliseconds(function, logits, jit, options.repeats) for jit in (True, False))
            rows.append({"batch": batch, "vocabulary": VOCABULARY, "sampling": name, "xla": xla, "graph": graph})
            print(f"{f'{batch} x {VOCABULARY}, {name}':34}{xla:10.3f}{graph:10.3f}", flush=True)
    save_results(options.output, "benchmarks/decoding_choices.py", {"seed": 0, "milliseconds": rows})


if __name__ == "__main__":
    main()
