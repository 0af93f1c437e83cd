"""What the training step is made of, and why: each part of ours against what Keras has, forward and backward.

Parts: cross-entropy on (64, 24, 8000) logits, layer normalization, dropout and the feed-forward network on
(64, 24, 256), in one TensorFlow graph each, on the CPU. Both of a pair take turns.

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


def with_gradient(function, x):
    """A compiled function that returns the gradient of sum(function(x)^2) with respect to x and the weights."""

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(y * y) if y.shape.rank else y
        gradients = tape.gradient(loss, [x, *tape.watched_variables()])
        return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])  # so that none is left out

    return step


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
    }
    rows = []
    print(f"{'ms, forward and backward':28}{'ours':>10}{'Keras':>10}{'ratio':>8}")
    for name, (x, count, ours, theirs) in pairs.items():
        steps = [with_gradient(function, x) for function in (ours, theirs)]
        seconds = [[], []]
        for step in steps:
            step()
        for _ in range(options.repeats):
            for step, times in zip(steps, seconds, strict=True):
                begin = time.perf_counter()
                step().numpy()
                times.append(time.perf_counter() - begin)
        mine, peers = (1000 * statistics.median(times) / count for times in seconds)
        rows.append({"part": name, "ours_ms": mine, "keras_ms": peers, "ratio": mine / peers})
        print(f"{name:28}{mine:10.2f}{peers:10.2f}{mine / peers:8.2f}", flush=True)
    save_results(options.output, "benchmarks/training_choices.py", {"seed": 0, "milliseconds": rows})


if __name__ == "__main__":
    main()
