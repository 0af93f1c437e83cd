"""Time and peak memory of one training step of the same Transformer in four libraries, side by side.

The model: encoder-decoder, 3 + 3 layers, width 256, feed-forward 1024, 4 heads, vocabulary 8000, post-norm,
sinusoidal positions, decoder embedding and output projection tied, dropout 0.1, float32; batches of 64 x 24
source and 64 x 24 target tokens with random lengths, padded with 0; cross-entropy as the mean over real
tokens; Adam; on the CPU.

How it is measured. Each engine lives in a fresh process of its own. The processes take turns, one round each,
and only one works at a time, so a machine that slows down slows all of them. The Keras engines step through
`model.fit` itself (a tf.data dataset of ready batches in memory; a callback stamps the end of each batch;
`jit_compile` as Keras leaves it, or XLA for all with `--jit-compile always`), torch through the loop its users
write. The first steps of each round are not counted. Peak memory is `ru_maxrss` after the last step less the
resident memory of the idle process: library imported, model and data built, no step made. The rate of the machine
is that of a 2048 x 2048 x 2048 float32 product in TensorFlow, taken in each round, too; the operations of a step are
counted by formula (matrix products: forward, and twice that backward). Measure on an idle machine: other work slows
engines unequally, torch most of all, whose threads wait for one another.

What is the same, and what is not. All engines have the same parameters, and drop the same things: attention
weights and the output of each sub-layer, before the residual. Nothing else is dropped, neither embeddings nor
the inner activations of the feed-forward network:
- keras_transformer: `dropout` is that of sub-layer outputs, so `attention_dropout` is given, too.
- keras_hub: `dropout` is both. Masks are handed over by hand, as adding the positional encoding loses them.
- keras.layers.MultiHeadAttention: `dropout` is that of attention weights; a `Dropout` stands behind each
  sub-layer.
- torch: `dropout` is both and that of inner activations; the last is set to 0. `nn.Transformer` normalizes
  once more behind each stack; those two norms are taken out.
The loss is each library's own: `SequenceCrossentropy` here, `SparseCategoricalCrossentropy(ignore_class=0)`
for the other Keras engines, `cross_entropy(ignore_index=0)` for torch. `--peer-loss ours` gives the Keras
engines ours, to compare the layers alone. Adam is each library's own with the same settings.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --engines keras_transformer keras_hub --peer-loss ours --rounds 2
    python benchmarks/train_step.py --jit-compile always --output benchmarks/results/train_step_xla.json
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from report import save_results

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = 3, 256, 1024, 4, 8000
BATCH, LENGTH = 64, 24
DROPOUT = 0.1
ADAM = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
BATCHES = 8  # distinct batches, seen again and again
CUBE = 2048
OURS = "keras_transformer"
RATE = "matmul rate"


def step_operations() -> int:
    """Floating-point operations of the matrix products of a step, forward and, at twice that, backward."""
    tokens = BATCH * LENGTH
    attention = 2 * tokens * 4 * WIDTH**2 + 2 * tokens * 2 * LENGTH * WIDTH  # projections, and scores and mixture
    feed_forward = 2 * tokens * 2 * WIDTH * INNER
    output = 2 * tokens * WIDTH * VOCABULARY
    forward = LAYERS * (attention + feed_forward) + LAYERS * (2 * attention + feed_forward) + output
    return 3 * forward


def make_batches(seed: int):
    """Arrays (BATCHES, BATCH, LENGTH): source, what the decoder reads, and that one token later."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def padded(length):
        ids = rng.integers(1, VOCABULARY, (BATCHES, BATCH, length))
        lengths = rng.integers(length // 2, length + 1, (BATCHES, BATCH, 1))
        return np.where(np.arange(length) < lengths, ids, 0).astype("int32")

    source, target = padded(LENGTH), padded(LENGTH + 1)
    # The last real token is never read: where the label is padding, so is the input.
    return source, np.where(target[:, :, 1:] == 0, 0, target[:, :, :-1]), target[:, :, 1:]


# ---- the engines ----


def our_model():
    """The model from keras_transformer's layers."""
    import keras

    import keras_transformer as kt

    options = {
        "num_heads": HEADS,
        "intermediate_dim": INNER,
        "dropout": DROPOUT,
        "attention_dropout": DROPOUT,
    }
    source = keras.Input((None,), dtype="int32")
    target = keras.Input((None,), dtype="int32")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(VOCABULARY, WIDTH)(source))
    for _ in range(LAYERS):
        x = kt.EncoderLayer(**options)(x)
    embedding = kt.TokenEmbedding(VOCABULARY, WIDTH)
    y = kt.PositionalEncoding()(embedding(target))
    for _ in range(LAYERS):
        y = kt.DecoderLayer(**options)(y, x)
    return keras.Model([source, target], embedding(y, reverse=True))


def keras_hub_model():
    """The model from keras_hub's layers."""
    import keras
    from keras_hub.layers import (
        ReversibleEmbedding,
        SinePositionEncoding,
        TransformerDecoder,
        TransformerEncoder,
    )

    options = {"intermediate_dim": INNER, "num_heads": HEADS, "dropout": DROPOUT}
    source = keras.Input((None,), dtype="int32")
    target = keras.Input((None,), dtype="int32")
    source_mask, target_mask = keras.ops.not_equal(source, 0), keras.ops.not_equal(target, 0)
    x = ReversibleEmbedding(VOCABULARY, WIDTH)(source)
    x = x + SinePositionEncoding()(x)
    for _ in range(LAYERS):
        x = TransformerEncoder(**options)(x, padding_mask=source_mask)
    embedding = ReversibleEmbedding(VOCABULARY, WIDTH)
    y = embedding(target)
    y = y + SinePositionEncoding()(y)
    for _ in range(LAYERS):
        y = TransformerDecoder(**options)(y, x, decoder_padding_mask=target_mask, encoder_padding_mask=source_mask)
    return keras.Model([source, target], embedding(y, reverse=True))


def keras_mha_model():
    """The model from Keras' own layers, with `keras.layers.MultiHeadAttention`."""
    import keras
    from keras import layers

    positions = sinusoids()[None]
    source = keras.Input((None,), dtype="int32")
    target = keras.Input((None,), dtype="int32")
    source_mask = keras.ops.expand_dims(keras.ops.not_equal(source, 0), 1)  # (B, 1, S)
    target_mask = keras.ops.expand_dims(keras.ops.not_equal(target, 0), 1)  # (B, 1, T)

    def residual(x, update):
        return layers.LayerNormalization(epsilon=1e-5)(x + layers.Dropout(DROPOUT)(update))

    def attend(x, memory, mask, causal=False):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=DROPOUT)
        return residual(x, attention(x, memory, attention_mask=mask, use_causal_mask=causal))

    def feed_forward(x):
        return residual(x, layers.Dense(WIDTH)(layers.Dense(INNER, activation="relu")(x)))

    x = layers.ReversibleEmbedding(VOCABULARY, WIDTH)(source) + positions
    for _ in range(LAYERS):
        x = feed_forward(attend(x, x, source_mask))
    embedding = layers.ReversibleEmbedding(VOCABULARY, WIDTH)
    y = embedding(target) + positions
    for _ in range(LAYERS):
        y = attend(y, y, target_mask, causal=True)
        y = feed_forward(attend(y, x, source_mask))
    return keras.Model([source, target], embedding(y, reverse=True))


def sinusoids():
    """The sinusoidal encoding (LENGTH, WIDTH) of "Attention Is All You Need", section 3.5."""
    import numpy as np

    angles = np.arange(LENGTH)[:, None] / 10000 ** (np.arange(0, WIDTH, 2) / WIDTH)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(LENGTH, WIDTH).astype("float32")


def keras_engine(build_model, loss, options):
    """Steps of a Keras model, through `model.fit`."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    keras.utils.set_random_seed(options.seed)
    model = build_model()
    model.compile(keras.optimizers.Adam(**ADAM), loss(), jit_compile=options.jit_compile)
    source, target, labels = make_batches(options.seed)
    batches = tf.data.Dataset.from_tensor_slices(((source, target), labels)).cache().repeat().prefetch(2)

    class Stamps(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.times = [time.perf_counter()]

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter())

    stamps = Stamps()

    def make_steps(count):
        history = model.fit(batches, steps_per_epoch=count, epochs=1, verbose=0, shuffle=False, callbacks=[stamps])
        return stamps.times, history.history["loss"][-1]

    return model.count_params(), make_steps


def torch_engine(options):
    """Steps of `torch.nn.Transformer`."""
    import torch
    from torch import nn

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.source_embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.target_embedding = nn.Embedding(VOCABULARY, WIDTH)
            for embedding in (self.source_embedding, self.target_embedding):
                nn.init.normal_(embedding.weight, std=WIDTH**-0.5)
            self.transformer = nn.Transformer(
                WIDTH, HEADS, LAYERS, LAYERS, INNER, DROPOUT, batch_first=True, norm_first=False
            )
            for stack in (self.transformer.encoder, self.transformer.decoder):
                stack.norm = None
                for layer in stack.layers:
                    layer.dropout.p = 0.0  # of the inner activations
            self.register_buffer("positions", torch.from_numpy(sinusoids()))
            self.register_buffer("causal", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1))

        def forward(self, source, target):
            source_padding = source == 0
            y = self.transformer(
                self.source_embedding(source) + self.positions,
                self.target_embedding(target) + self.positions,
                tgt_mask=self.causal,
                src_key_padding_mask=source_padding,
                tgt_key_padding_mask=target == 0,
                memory_key_padding_mask=source_padding,
                tgt_is_causal=True,
            )
            return nn.functional.linear(y, self.target_embedding.weight)

    model = Model().train()
    betas = (ADAM["beta_1"], ADAM["beta_2"])
    optimizer = torch.optim.Adam(model.parameters(), lr=ADAM["learning_rate"], betas=betas, eps=ADAM["epsilon"])
    arrays = [torch.from_numpy(array.astype("int64")) for array in make_batches(options.seed)]

    def make_steps(count):
        times, losses = [time.perf_counter()], []
        for step in range(count):
            source, target, labels = (array[step % BATCHES] for array in arrays)
            optimizer.zero_grad(set_to_none=True)
            logits = model(source, target)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            times.append(time.perf_counter())
        return times, statistics.mean(losses)

    return sum(parameter.numel() for parameter in model.parameters()), make_steps


def rate_engine(options):
    """Not a model: the float32 matrix product that tells what the machine can do."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    a, b = tf.random.normal((CUBE, CUBE)), tf.random.normal((CUBE, CUBE))
    multiply = tf.function(lambda: tf.matmul(a, b))

    def make_steps(count):
        times = [time.perf_counter()]
        for _ in range(count):
            multiply()
            times.append(time.perf_counter())
        return times, None

    return 0, make_steps


def our_loss():
    """keras_transformer's cross-entropy."""
    import keras_transformer as kt

    return kt.training.SequenceCrossentropy()


def keras_loss():
    """Keras' cross-entropy, padding left out."""
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)


def build_engine(name: str, options):
    """An engine: its number of parameters, and a function from a number of steps to (stamps, mean loss)."""
    peer_loss = our_loss if options.peer_loss == "ours" else keras_loss
    match name:
        case "keras_transformer":
            return keras_engine(our_model, our_loss, options)
        case "keras_hub":
            return keras_engine(keras_hub_model, peer_loss, options)
        case "keras_mha":
            return keras_engine(keras_mha_model, peer_loss, options)
        case "torch":
            return torch_engine(options)
        case _:
            return rate_engine(options)


ENGINES = {
    OURS: "keras_transformer",
    "keras_hub": "keras_hub layers",
    "keras_mha": "keras.layers.MultiHeadAttention",
    "torch": "torch.nn.Transformer",
}


# ---- the measurement ----


def peak_bytes() -> int:
    """The most memory this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_bytes() -> int:
    """The memory this process has resident now (where the system does not tell: has had at most)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else peak_bytes()


def work(name: str, options, connection, log: str) -> None:
    """The life of an engine's process: build, then make as many steps as asked for, time and again."""
    os.dup2(os.open(log, os.O_WRONLY), sys.stderr.fileno())  # libraries tell much here that is not the table
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    parameters, make_steps = build_engine(name, options)
    idle = resident_bytes()
    connection.send({"parameters": parameters, "idle_bytes": idle})
    while count := connection.recv():
        times, loss = make_steps(count)
        seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
        connection.send({"seconds": seconds, "loss": loss, "peak_bytes": peak_bytes() - idle})


class Worker:
    """An engine in its own process."""

    def __init__(self, name: str, options):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.log = tempfile.NamedTemporaryFile(mode="r", suffix=".log")
        self.connection, theirs = context.Pipe()
        arguments = (name, options, theirs, self.log.name)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.facts = self._receive()
        self.rounds = []

    def _receive(self) -> dict:
        try:
            return self.connection.recv()
        except EOFError:
            raise SystemExit(f"The engine {self.name} stopped:\n{self.log.read()}") from None

    def measure(self, steps: int, warm_up: int) -> None:
        """One round: keep the seconds of each step behind the first `warm_up` ones."""
        self.connection.send(steps + warm_up)
        answer = self._receive()
        self.rounds.append(answer["seconds"][warm_up:])
        self.facts.update(loss=answer["loss"], peak_bytes=answer["peak_bytes"])

    def close(self) -> None:
        """Let the process end."""
        self.connection.send(0)
        self.process.join()
        self.log.close()

    @property
    def seconds(self) -> list[float]:
        """Of all steps of all rounds."""
        return [second for one in self.rounds for second in one]


def measure(options) -> dict:
    """Run all engines in turns and return every figure."""
    workers = [Worker(name, options) for name in [*options.engines, RATE]]
    for number in range(options.rounds):
        for worker in workers:
            print(
                f"\rround {number + 1} of {options.rounds}: {worker.name:<20}",
                end="",
                file=sys.stderr,
                flush=True,
            )
            # Tracing, and the first use of each buffer, fall into the first round.
            worker.measure(options.steps, warm_up=5 if number == 0 else 2)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    for worker in workers:
        worker.close()

    *engines, rate = workers
    machine_rate = 2 * CUBE**3 / statistics.median(rate.seconds)
    ours = next((statistics.median(worker.seconds) for worker in engines if worker.name == OURS), None)
    results = {}
    for worker in engines:
        median = statistics.median(worker.seconds)
        deciles = statistics.quantiles(worker.seconds, n=10)
        results[worker.name] = {
            "median_ms": 1e3 * median,
            "p10_ms": 1e3 * deciles[0],
            "p90_ms": 1e3 * deciles[-1],
            "round_medians_ms": [1e3 * statistics.median(one) for one in worker.rounds],
            "steps": len(worker.seconds),
            "ours_over_this": ours / median if ours else None,
            "fraction_of_matmul_rate": step_operations() / median / machine_rate,
            "peak_mib": worker.facts["peak_bytes"] / 2**20,
            "idle_mib": worker.facts["idle_bytes"] / 2**20,
            "parameters": worker.facts["parameters"],
            "mean_loss_of_last_round": worker.facts["loss"],
        }
    return {
        "seed": options.seed,
        "threads": options.threads,
        "peer_loss": options.peer_loss,
        "jit_compile": options.jit_compile,
        "rounds": options.rounds,
        "steps_per_round": options.steps,
        "operations_per_step": step_operations(),
        "matmul_gflops_per_second": machine_rate / 1e9,
        "matmul_gflops_per_second_by_round": [2 * CUBE**3 / statistics.median(one) / 1e9 for one in rate.rounds],
        "engines": results,
    }


def table(report: dict) -> str:
    """The figures for people."""
    lines = [
        f"{'engine':<32}{'ms a step':>11}{'p10 - p90':>17}{'ours/this':>11}{'of matmul rate':>16}"
        f"{'peak MiB':>10}{'parameters':>12}"
    ]
    for name, row in report["engines"].items():
        ratio = f"{row['ours_over_this']:.2f}" if row["ours_over_this"] else "-"
        spread = f"{row['p10_ms']:.0f} - {row['p90_ms']:.0f}"
        lines.append(
            f"{ENGINES[name]:<32}{row['median_ms']:>11.1f}{spread:>17}{ratio:>11}"
            f"{row['fraction_of_matmul_rate']:>16.2f}{row['peak_mib']:>10.0f}{row['parameters']:>12,}"
        )
    lines.append(
        f"\n{report['operations_per_step'] / 1e9:.1f} GFLOP a step; this machine multiplies matrices at "
        f"{report['matmul_gflops_per_second']:.0f} GFLOP/s with {report['threads']} threads."
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each engine (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="timed steps in a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--peer-loss", choices=["own", "ours"], default="own", help="loss of the other Keras engines")
    parser.add_argument(
        "--jit-compile", choices=["auto", "always"], default="auto", help="XLA for the Keras engines; auto is fit's own"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "train_step.json", help="JSON file"
    )
    options = parser.parse_args()
    if min(options.rounds, options.steps, options.threads) < 1 or options.rounds * options.steps < 2:
        parser.error("takes positive --rounds, --steps and --threads, and at least two steps in all.")

    options.jit_compile = True if options.jit_compile == "always" else "auto"
    report = measure(options)
    print(table(report))
    save_results(options.output, "benchmarks/train_step.py", report)


if __name__ == "__main__":
    main()
