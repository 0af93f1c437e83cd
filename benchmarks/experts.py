"""What a mixture of experts costs as the number of experts grows: a training step of one layer, each token taking two.

2,048 tokens of width 256, experts of inner width 512, forward and backward, compiled, on the CPU. Beside it the
gated `FeedForward` of the same active size, inner width 1,024, and KerasHub's `MixtralSparseMoeBlock`. All take turns
in one process.

    python benchmarks/experts.py                     # KERAS_BACKEND=jax for JAX
"""

import os
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import ops
from report import QUICK, make_parser, save_results

import keras_transformer as kt

DIM, INNER, TOKENS, TOP_K, EXPERTS = (8, 16, (2, 16), 2, (4, 8)) if QUICK else (256, 512, (8, 256), 2, (4, 16, 64))
GATED = {"activation": "silu", "gated": True, "use_bias": False}


def layers(peer: bool) -> dict:
    """By name, what is measured."""
    found = {f"dense of {TOP_K} x {INNER}": kt.FeedForward(TOP_K * INNER, **GATED)}
    for count in EXPERTS:
        found[f"{count} experts"] = kt.MixtureOfExperts(count, INNER, top_k=TOP_K, **GATED)
    for count in EXPERTS if peer else ():
        from keras_hub.src.models.mixtral.mixtral_decoder import MixtralSparseMoeBlock

        found[f"KerasHub, {count} experts"] = First(MixtralSparseMoeBlock(DIM, INNER, count, TOP_K, 0.0))
    return found


class First(keras.layers.Layer):
    """The first output of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def build(self, shape):
        self.layer.build(shape)

    def call(self, inputs, training=None):
        return self.layer(inputs, training=training)[0]


def step_of(layer, x):
    """A compiled function that returns the gradients of the sum of squares, and the layer's losses, for its weights."""
    layer.build(x.shape)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(layer(x, training=True))) + sum(layer.losses)
            return tape.gradient(loss, [weight.value for weight in layer.trainable_weights])

        return lambda: [np.asarray(gradient).ravel()[0] for gradient in step(x)]
    import jax

    others = [variable.value for variable in layer.non_trainable_variables]

    def loss(values, x):
        output, _, losses = layer.stateless_call(values, others, x, training=True, return_losses=True)
        return ops.sum(ops.square(output)) + sum(losses)

    step = jax.jit(jax.grad(loss))
    values = [variable.value for variable in layer.trainable_variables]
    return lambda: jax.block_until_ready(step(values, x))


def main() -> None:
    """Measure in turns, print, save."""
    parser = make_parser(__doc__, "experts")
    parser.add_argument("--rounds", type=int, default=2 if QUICK else 7)
    parser.add_argument("--no-peer", action="store_true", help="leave KerasHub out")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(*TOKENS, DIM)).astype("float32"))
    steps = {name: step_of(layer, x) for name, layer in layers(not options.no_peer).items()}
    milliseconds = {name: [] for name in steps}
    for round_ in range(options.rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if round_:  # the first one compiles
                milliseconds[name].append(1000 * (time.perf_counter() - begin))
    figures = {name: statistics.median(of_one) for name, of_one in milliseconds.items()}
    dense, *_ = figures.values()
    for name, median in figures.items():
        print(f"{name:22}{median:9.1f} ms {median / dense:7.2f} of dense")
    settings = {"dim": DIM, "intermediate_dim": INNER, "tokens": TOKENS, "top_k": TOP_K, "rounds": options.rounds}
    figures = {**settings, "backend": keras.backend.backend(), "ms": figures}
    save_results(options.output, "benchmarks/experts.py", figures)


if __name__ == "__main__":
    main()
