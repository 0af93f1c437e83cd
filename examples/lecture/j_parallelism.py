"""Claim: an RNN has to go word by word; attention computes all relations of a sentence at once.

    LSTM:       h_t = o_t * tanh(c_t), c_t = f_t * c_(t-1) + i_t * g_t, every gate a function of x_t and h_(t-1)
                ("Long Short-Term Memory", https://doi.org/10.1162/neco.1997.9.8.1735; the forget gate f is of
                "Learning to Forget", https://doi.org/10.1162/089976600300015015)
    attention:  softmax(Q K^T / sqrt(d_k)) V, where no output waits for another: O(1) steps in sequence in place of O(n)
                ("Attention Is All You Need", table 1, https://arxiv.org/abs/1706.03762)

Training steps of an LSTM layer and of an encoder layer of the same size are timed in turns, at lengths from 16 to 512,
always the same number of words: medians. A third layer has the LSTM's weights, products and gates, but reads x_(t-1)
where the LSTM reads h_(t-1), so all its positions are computed at once. What the LSTM takes beyond it is what going in
sequence costs; the claim holds if that is most of its time for long sentences, and more than for short ones. Whether
attention is the faster is another question, which depends on the machine: it computes n^2 scores, and a few cores do
not all at once what a GPU does. The ratio answers it for the machine at hand.

    python examples/lecture/j_parallelism.py
"""

import os
import time

import keras
import numpy as np
import page
from keras import ops
from matplotlib.figure import Figure

import keras_transformer as kt

DIM, WORDS, ROUNDS = 128, 4096, 15
LENGTHS = (16, 32, 64, 128, 256, 512)


class GatesAtOnce(keras.layers.Layer):
    """An LSTM's weights and arithmetic without its order: the previous input stands for the previous state."""

    def build(self, inputs_shape):
        self.kernel = self.add_weight(shape=(inputs_shape[-1], 4 * DIM))
        self.recurrent_kernel = self.add_weight(shape=(DIM, 4 * DIM))
        self.bias = self.add_weight(shape=(4 * DIM,), initializer="zeros")

    def call(self, inputs):
        rows = ops.reshape(inputs, (-1, DIM))
        before = ops.reshape(ops.roll(inputs, 1, axis=1), (-1, DIM))
        gates = ops.matmul(rows, self.kernel) + ops.matmul(before, self.recurrent_kernel) + self.bias
        enter, forget, new, out = ops.split(gates, 4, axis=-1)
        cell = ops.sigmoid(forget) * before + ops.sigmoid(enter) * ops.tanh(new)
        return ops.reshape(ops.sigmoid(out) * ops.tanh(cell), ops.shape(inputs))


LAYERS = {
    "LSTM": lambda: keras.layers.LSTM(DIM, return_sequences=True),
    "LSTM without its order": GatesAtOnce,
    "encoder layer": lambda: kt.EncoderLayer(4, 2 * DIM),
}


def step_of(make_layer, length: int):
    """A function that does one training step on the same words, and the layer's number of weights."""
    keras.utils.set_random_seed(page.SEED)
    vectors = keras.Input((length, DIM))
    model = keras.Model(vectors, make_layer()(vectors))
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    x, y = np.random.default_rng(page.SEED).normal(size=(2, WORDS // length, length, DIM)).astype("float32")
    return lambda: model.train_on_batch(x, y), model.count_params()


def measure() -> tuple[dict[tuple[int, str], float], dict[str, int]]:
    """The median milliseconds of a step for each length and layer, taken in turns, and the layers' weights."""
    steps, weights = {}, {}
    for length in LENGTHS:
        for name, make_layer in LAYERS.items():
            steps[length, name], weights[name] = step_of(make_layer, length)
    times = {case: [] for case in steps}
    for turn in range(2 + ROUNDS):
        for case, step in steps.items():
            begin = time.perf_counter()
            step()
            if turn >= 2:  # the first traces, the second still allocates
                times[case].append(1000 * (time.perf_counter() - begin))
    return {case: round(float(np.median(values)), 2) for case, values in times.items()}, weights


def main() -> None:
    """Time every length, and take the LSTM's time apart."""
    options = page.arguments(__doc__)
    medians, weights = measure()
    results = []
    for length in LENGTHS:
        times = {name: medians[length, name] for name in LAYERS}
        lstm, at_once, encoder = times.values()
        results.append(
            {
                "length": length,
                "sentences": WORDS // length,
                "milliseconds": times,
                "lstm_over_encoder": round(lstm / encoder, 2),
                "share_of_order_in_lstm": round(1 - at_once / lstm, 3),
            }
        )
    page.table(
        f"A training step on {WORDS} words of width {DIM}, milliseconds",
        [
            "length",
            *(f"{name} ({weights[name]:,} weights)" for name in LAYERS),
            "LSTM / encoder",
            "order's share of LSTM",
        ],
        [
            [r["length"], *r["milliseconds"].values(), r["lstm_over_encoder"], f"{r['share_of_order_in_lstm']:.0%}"]
            for r in results
        ],
    )

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in LAYERS:
        left.plot(LENGTHS, [r["milliseconds"][name] for r in results], "o-", label=name)
    left.set(xscale="log", xlabel="length", ylabel=f"ms for a training step on {WORDS} words", ylim=(0, None))
    left.legend()
    right.plot(LENGTHS, [r["lstm_over_encoder"] for r in results], "o-", label="LSTM / encoder layer")
    right.axhline(1, color="gray", lw=0.8)
    right.set(xscale="log", xlabel="length", ylabel="ratio of times", ylim=(0, None))
    right.legend()
    for axes in (left, right):
        axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        axes.minorticks_off()
    page.write(
        options,
        __file__,
        "An RNN spends its time on going word by word, the more the longer the sentence; its arithmetic does not grow.",
        results[-1]["share_of_order_in_lstm"] > max(0.5, results[0]["share_of_order_in_lstm"]),
        {
            "words_a_step": WORDS,
            "dim": DIM,
            "weights": weights,
            "cores": os.cpu_count(),
            "rounds": ROUNDS,
            "encoder_is_faster_at": [r["length"] for r in results if r["lstm_over_encoder"] > 1],
            "results": results,
        },
        figure,
    )


if __name__ == "__main__":
    main()
