"""Claim: an RNN forgets what came first as its gradient vanishes, an LSTM only later, and attention far less.

    RNN        dh_T / dh_1 = product of diag(tanh') U, T - 1 factors  ("On the difficulty of training recurrent neural
               networks", https://arxiv.org/abs/1211.5063)
    LSTM       dc_T / dc_1 = product of the forget gates f_t, along the cell  ("Learning to Forget", Gers et al., 2000)
    attention  output_T = sum over s of a_Ts v_s: one step from any position to any other
               (https://arxiv.org/abs/1706.03762, table 1)

How it is measured. (1) At initialization, in float64: the norm of the gradient of the last output, along a random
unit vector, with respect to the first input; the median of 16 sequences of unit variance. (2) After a short training
that is the same for all: which of ten symbols stood first, when nothing but ten other symbols follows? The last
output has to tell, for lengths of 5 to 500. The layers are `keras.layers.SimpleRNN` and `LSTM` as Keras initializes
them (forget bias 1), the LSTM with a forget bias of 5, so that its gates start open, and `kt.MultiHeadSelfAttention`
with one head, all of width 32. Two more lines of (1), SimpleRNN and LSTM with smaller inputs, show how much hangs on
the saturation of tanh.

    python examples/lecture/a_vanishing_gradients.py
"""

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from page import SEED, arguments, table, write

import keras_transformer as kt

WIDTH, SYMBOLS, FILLERS = 32, 10, 10
GRADIENT_LENGTHS, RECALL_LENGTHS = (10, 20, 50, 100, 200, 500), (5, 10, 30, 100, 200, 500)
ROWS, STEPS, BATCH, TESTS = 16, 300, 32, 500
OPEN = 5.0  # forget bias of gates that start open: sigmoid(5) = 0.993
CLAIM = "An RNN forgets what came first as its gradient vanishes; so does an LSTM, later; self-attention far less."
MODELS = ("SimpleRNN", "LSTM", "LSTM, open gates", "self-attention")
SMALL = ("SimpleRNN, small inputs", "LSTM, small inputs")


def build_layer(kind: str, dtype: str = "float32") -> keras.layers.Layer:
    """A layer (B, T, WIDTH) to (B, T, WIDTH)."""
    if kind == "self-attention":
        layer = kt.MultiHeadSelfAttention(1, dtype=dtype)
    else:
        recurrent = keras.layers.SimpleRNN if kind.startswith("SimpleRNN") else keras.layers.LSTM
        layer = recurrent(WIDTH, return_sequences=True, dtype=dtype)
    layer.build((None, None, WIDTH))
    if kind == "LSTM, open gates":
        kernel, recurrent_kernel, bias = layer.get_weights()
        bias[WIDTH : 2 * WIDTH] = OPEN  # the gates stand in the order input, forget, candidate, output
        layer.set_weights([kernel, recurrent_kernel, bias])
    return layer


def gradient_at_first_step(kind: str) -> list[float]:
    """The median norm of the gradient that reaches the first input, for each length."""
    layer = build_layer(kind, "float64")
    rng = np.random.default_rng(SEED)
    direction = rng.standard_normal((ROWS, WIDTH))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    deviation = WIDTH**-0.5 if kind in SMALL else 1.0

    def gradient(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            projected = tf.reduce_sum(layer(inputs)[:, -1] * direction)
        return tape.gradient(projected, inputs)[:, 0]

    inputs = [tf.constant(deviation * rng.standard_normal((ROWS, length, WIDTH))) for length in GRADIENT_LENGTHS]
    return [float(np.median(np.linalg.norm(gradient(x), axis=-1))) for x in inputs]


def recall(kind: str, length: int) -> float:
    """Accuracy on new sequences after training."""
    keras.utils.set_random_seed(SEED)
    tokens = keras.Input((None,), dtype="int32")
    unit_variance = keras.initializers.RandomNormal(stddev=1.0)  # as in (1)
    embedded = keras.layers.Embedding(SYMBOLS + FILLERS, WIDTH, embeddings_initializer=unit_variance)(tokens)
    model = keras.Model(tokens, keras.layers.Dense(SYMBOLS)(build_layer(kind)(embedded)[:, -1]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3, clipnorm=1.0), loss, metrics=["accuracy"])
    rng = np.random.default_rng(SEED)
    symbols = rng.integers(0, SYMBOLS, STEPS * BATCH + TESTS)
    sequences = rng.integers(SYMBOLS, SYMBOLS + FILLERS, (len(symbols), length))
    sequences[:, 0] = symbols
    model.fit(sequences[TESTS:], symbols[TESTS:], batch_size=BATCH, verbose=0)
    return model.evaluate(sequences[:TESTS], symbols[:TESTS], batch_size=TESTS, verbose=0)[1]


def draw(gradients: dict, recalls: dict) -> Figure:
    """Gradient and recall against length."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, kind in enumerate(gradients):
        left.loglog(GRADIENT_LENGTHS, gradients[kind], marker="o", color=f"C{i}", label=kind)
        if kind in recalls:
            right.semilogx(RECALL_LENGTHS, recalls[kind], marker="o", color=f"C{i}", label=kind)
    right.axhline(1 / SYMBOLS, color="gray", linestyle=":", label="chance")
    left.set(ylabel="gradient at the first step", ylim=(1e-60, 1e3), title="at initialization")
    right.set(ylabel="first token recalled", ylim=(0, 1.03), title=f"after {STEPS} steps of training")
    for axes, lengths in ((left, GRADIENT_LENGTHS), (right, RECALL_LENGTHS)):
        axes.set_xlabel("length of the sequence")
        axes.set_xticks(lengths, lengths)
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Gradients first, then the trainings."""
    options = arguments(__doc__)
    gradients = {kind: gradient_at_first_step(kind) for kind in (*MODELS, *SMALL)}
    rows = [[kind, *(f"{x:.1e}" for x in norms)] for kind, norms in gradients.items()]
    table("Norm of the gradient at the first step", ["", *map(str, GRADIENT_LENGTHS)], rows)
    recalls = {kind: [recall(kind, length) for length in RECALL_LENGTHS] for kind in MODELS}
    rows = [[kind, *(f"{x:.2f}" for x in accuracies)] for kind, accuracies in recalls.items()]
    table(f"First token recalled, after {STEPS} steps", ["", *map(str, RECALL_LENGTHS)], rows)

    near, far = GRADIENT_LENGTHS.index(100), GRADIENT_LENGTHS.index(200)
    factors = {kind: (norms[far] / norms[near]) ** (1 / 100) for kind, norms in gradients.items()}
    vanishes = all(factors[kind] < 0.9 for kind in ("SimpleRNN", "LSTM")) and gradients["self-attention"][-1] > 1e-4
    forgets = all(recalls[kind][-1] < 0.2 for kind in ("SimpleRNN", "LSTM"))
    recalled = min(recalls["self-attention"]) > 0.5
    later = factors["SimpleRNN"] < factors["LSTM"] and sum(recalls["SimpleRNN"]) < sum(recalls["LSTM"])
    figures = {
        "gradient_lengths": GRADIENT_LENGTHS,
        "gradient_at_first_step": gradients,
        "factor_per_step_from_100_to_200": factors,
        "recall_lengths": RECALL_LENGTHS,
        "recall": recalls,
        "recurrent_gradients_vanish": vanishes,
        "recurrent_layers_forget": forgets,
        "self_attention_recalls": recalled,
        "lstm_forgets_later": later,
        "training_steps": STEPS,
        "width": WIDTH,
    }
    write(options, __file__, CLAIM, vanishes and forgets and recalled and later, figures, draw(gradients, recalls))


if __name__ == "__main__":
    main()
