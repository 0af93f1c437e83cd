"""What a network with the exact GELU costs on JAX: its automatic gradient, the one written out, and ReLU beside them.

Four feed-forward networks one after the other, (1536, 256) -> 1024 -> 256, plain or gated, forward and backward, one
program of XLA each, on the CPU. Milliseconds of steps that take turns, the memory that the program needs beside its
inputs and outputs, and what it reads and writes, as XLA counts it.

    python benchmarks/gelu.py
"""

import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import keras
from report import QUICK, make_parser, save_results

from keras_transformer.ops.activations import gelu

ROWS, WIDTH, INNER, LAYERS = (6, 4, 8, 2) if QUICK else (1536, 256, 1024, 4)
ACTIVATIONS = {"automatic": keras.activations.gelu, "written out": gelu, "relu": keras.activations.relu}
CASES = [("float32", False), ("bfloat16", False), ("float32", True)]


def compiled(activation, dtype: str, gated: bool):
    """A program that returns loss and gradients, and its arguments."""
    inner = INNER * (2 if gated else 1)
    random = jax.random.key(0)
    layer = [jax.random.normal(random, shape, dtype) * 0.05 for shape in ((WIDTH, inner), (inner,), (INNER, WIDTH))]
    arguments = [layer] * LAYERS, jax.random.normal(random, (ROWS, WIDTH), dtype)

    def loss(layers, x):
        for into, bias, out in layers:
            hidden = x @ into + bias
            if gated:
                hidden, gate = jnp.split(hidden, 2, axis=-1)
                hidden = activation(hidden) * gate
            else:
                hidden = activation(hidden)
            x = x + hidden @ out
        return jnp.sum(jnp.square(x.astype("float32")))

    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile(), arguments


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, "gelu")
    parser.add_argument("--repeats", type=int, default=2 if QUICK else 8)
    options = parser.parse_args()
    rows = []
    for dtype, gated in CASES:
        programs = {name: compiled(activation, dtype, gated) for name, activation in ACTIVATIONS.items()}
        seconds = {name: [] for name in programs}
        for step in range(options.repeats + 1):  # the first warms up
            for name, (program, arguments) in programs.items():
                begin = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                if step:
                    seconds[name].append(time.perf_counter() - begin)
        for name, (program, _) in programs.items():
            row = {
                "dtype": dtype,
                "gated": gated,
                "gradient": name,
                "ms": 1e3 * statistics.median(seconds[name]),
                "temporary_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
                "accessed_mib": program.cost_analysis()["bytes accessed"] / 2**20,
            }
            rows.append(row)
            print(*(f"{value:.1f}" if isinstance(value, float) else value for value in row.values()), flush=True)
    save_results(options.output, "benchmarks/gelu.py", {"seed": 0, "layers": LAYERS, "rows": rows})


if __name__ == "__main__":
    main()
