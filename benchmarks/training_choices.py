"""What the training step is made of, and why: each part of ours against what Keras has, forward and backward.

Parts: cross-entropy on (64, 24, 8000) logits, layer normalization, dropout and the feed-forward network on
(64, 24, 256), in one TensorFlow graph each, on the CPU. Beside them the update of 8 million weights: by Adam in one
pass over memory, which is a recipe of docs/performance.md and not ours, and by Keras' Adam. Both of a pair take turns.

    python benchmarks/training_choices.py
"""

import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.optimizers import Adam as KerasAdam
from report import QUICK, make_parser, save_results

import keras_transformer as kt
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.normalization import LayerNormalization

BATCH, LENGTH, WIDTH, INNER, VOCABULARY = (2, 3, 8, 16, 20) if QUICK else (64, 24, 256, 1024, 8000)
CHAIN = 8  # so that what a graph costs by itself counts little


def chain(make_layer):
    """Eight layers one after the other, in training."""
    stack = [make_layer() for _ in range(CHAIN)]

    def call(x):
        for layer in stack:
            x = layer(x, training=True) if "training" in layer.call.__code__.co_varnames else layer(x)
        return x

    return call


def keras_feed_forward():
    """The feed-forward network from `keras.layers.Dense`."""
    return keras.Sequential([layers.Dense(INNER, activation="relu"), layers.Dense(WIDTH)])


def keras_gelu_network():
    """The same with the exact GELU."""
    return keras.Sequential([layers.Dense(INNER, activation="gelu"), layers.Dense(WIDTH)])


class OnePassAdam(keras.optimizers.Adam):
    """Adam, the update of a weight by TensorFlow's own kernel: one pass over memory (docs/performance.md)."""

    def update_step(self, gradient, variable, learning_rate):
        index, dtype = self._get_variable_index(variable), variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.cast(self.beta_1, dtype) ** step,
            beta2_power=tf.cast(self.beta_2, dtype) ** step,
            lr=tf.cast(learning_rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
        )


def update(optimizer, shapes):
    """A compiled function that updates weights of these shapes once."""
    weights = [keras.Variable(keras.random.normal(shape, seed=1)) for shape in shapes]
    gradients = [tf.random.stateless_normal(shape, (0, 1)) for shape in shapes]
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step():
        optimizer.apply(gradients, weights)
        return weights[-1].value[:1]

    return step


def with_gradient(function, x):
    """A compiled function that returns the gradient of sum(function(x)^2) with respect to x and the weights."""

    @tf.function(autograph=False)
    def step():
        given = tf.identity(x)  # a tensor of the graph, as the output of a layer is
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = function(given)
            loss = tf.reduce_sum(y * y) if y.shape.rank else y
        gradients = tape.gradient(loss, [given, *tape.watched_variables()])
        return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])  # so that none is left out

    return step


def in_turns(steps, repeats: int) -> list[float]:
    """The median milliseconds of each."""
    seconds = [[] for _ in steps]
    for step in steps:
        step()
    for _ in range(repeats):
        for step, times in zip(steps, seconds, strict=True):
            begin = time.perf_counter()
            step().numpy()
            times.append(time.perf_counter() - begin)
    return [1000 * statistics.median(times) for times in seconds]


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, "training_choices")
    parser.add_argument("--repeats", type=int, default=2 if QUICK else 30)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    hidden = tf.constant(random.normal(size=(BATCH, LENGTH, WIDTH)).astype("float32"))
    logits = tf.constant(random.normal(size=(BATCH, LENGTH, VOCABULARY)).astype("float32"))
    labels = tf.constant(random.integers(0, VOCABULARY, (BATCH, LENGTH)), "int32")
    our_loss = kt.training.SequenceCrossentropy()
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    pairs = {
        "cross-entropy": (logits, 1, lambda z: our_loss(labels, z), lambda z: keras_loss(labels, z)),
        "layer normalization": (hidden, CHAIN, chain(LayerNormalization), chain(layers.LayerNormalization)),
        "dropout": (hidden, CHAIN, chain(lambda: Dropout(0.1)), chain(lambda: layers.Dropout(0.1))),
        "feed-forward": (hidden, CHAIN, chain(lambda: kt.FeedForward(INNER)), chain(keras_feed_forward)),
        "feed-forward with GELU": (
            hidden,
            CHAIN,
            chain(lambda: kt.FeedForward(INNER, activation="gelu")),
            chain(keras_gelu_network),
        ),
    }
    steps = {
        name: (count, [with_gradient(function, x) for function in (ours, theirs)])
        for name, (x, count, ours, theirs) in pairs.items()
    }
    rows = []
    print(f"{'ms, forward and backward':28}{'ours':>10}{'Keras':>10}{'ratio':>8}")
    for name, (count, pair) in steps.items():
        mine, peers = (milliseconds / count for milliseconds in in_turns(pair, options.repeats))
        rows.append({"part": name, "ours_ms": mine, "keras_ms": peers, "ratio": mine / peers})
        print(f"{name:28}{mine:10.2f}{peers:10.2f}{mine / peers:8.2f}", flush=True)
    layer = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, INNER), (INNER, WIDTH), *[(WIDTH,)] * 8]
    shapes = [(VOCABULARY, WIDTH), *CHAIN * layer]
    one, several = in_turns([update(Adam(), shapes) for Adam in (OnePassAdam, KerasAdam)], options.repeats)
    adam = {"one_pass_ms": one, "keras_ms": several, "ratio": one / several}
    print(f"{'Adam in one pass':28}{one:10.2f}{several:10.2f}{one / several:8.2f}")
    save_results(options.output, "benchmarks/training_choices.py", {"seed": 0, "milliseconds": rows, "adam": adam})


if __name__ == "__main__":
    main()
