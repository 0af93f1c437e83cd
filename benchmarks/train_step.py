"""Time and peak memory of one training step of the same Transformer in four libraries, side by side.

The model: encoder-decoder, 3 + 3 layers, width 256, feed-forward 1024, 4 heads, vocabulary 8000, post-norm,
sinusoidal positions, decoder embedding and output projection tied, dropout 0.1, float32; batches of 64 x 24
source and 64 x 24 target tokens with random lengths, padded with 0; cross-entropy as the mean over real
tokens; Adam; on the CPU.

How it is measured. Each engine lives in a fresh process of its own. The processes take turns, one round each, every
other time in reverse, and only one works at a time, so a machine that slows down slows all of them. The Keras engines
step through `model.fit` itself (a tf.data dataset of ready batches in memory; a callback stamps the end of each batch;
`jit_compile` as Keras leaves it, or XLA for all with `--jit-compile always`), torch through the loop its users write.
The first steps of each round are not counted. Peak memory is `ru_maxrss` after the last step less the resident memory
of the idle process: library imported, model and data built, no step made. The rate of the machine is that of a 2048 x
2048 x 2048 float32 product in TensorFlow, taken in each round, too; the operations of a step are counted by formula
(matrix products: forward, and twice that backward). Measure on an idle machine: other work slows engines unequally,
torch most of all, whose threads wait for one another.

What is the same, and what is not. All engines have the same parameters, and drop the same things: attention
weights and the output of each sub-layer, before the residual. Nothing else is dropped, neither embeddings nor
the inner activations of the feed-forward network:
- keras_transformer: `dropout` is that of sub-layer outputs, so `attention_dropout` is given, too.
- keras_hub: `dropout` is both. Masks are handed over by hand, as adding the positional encoding loses them.
- keras.layers.MultiHeadAttention: `dropout` is that of attention weights; a `Dropout` stands behind each
  sub-layer.
- torch: `dropout` is both and that of inner activations; the last is set to 0. `nn.Transformer` normalizes
  once more behind each stack; those two norms are taken out.
Adam is each library's own with the same settings.

The loss of the first table is each library's own: `SequenceCrossentropy` here,
`SparseCategoricalCrossentropy(ignore_class=0)` for the other Keras engines, `cross_entropy(ignore_index=0)` for torch.
The second table tells the shares of the loss and of the C library's allocator: each Keras engine with both losses, and
all with memory that is given back as the C library does, or kept (`kt.training.keep_freed_memory`). Each of these ways
has a process of its own, too. Between turns every process gives back what is free, so that those that keep memory do
not fill the machine.

A run that is stopped (Ctrl+C, SIGTERM) keeps the rounds that are whole.

`--before` adds ours of another checkout, to see whether a change made the step slower or larger.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --engines keras_transformer keras_hub --losses own --allocators default --rounds 2
    python benchmarks/train_step.py --jit-compile always --output benchmarks/results/train_step_xla.json
    git worktree add /tmp/before HEAD~20 && python benchmarks/train_step.py --before /tmp/before
"""

import ctypes
import dataclasses
import multiprocessing
import os
import resource
import runpy
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from report import QUICK, REPOSITORY, make_parser, save_results

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = (1, 16, 32, 2, 50) if QUICK else (3, 256, 1024, 4, 8000)
BATCH, LENGTH = (4, 8) if QUICK else (64, 24)
DROPOUT = 0.1
ADAM = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
WARM_UP, SKIPPED = 5, 2  # steps that do not count: before the first round, and of each round
BATCHES = 8  # distinct batches, seen again and again
CUBE = 64 if QUICK else 2048
OURS, BEFORE = "keras_transformer", "before"
RATE = "matmul rate"
LOSSES = {"own": "its own loss", "ours": "our loss", "keras": "Keras' loss"}
ALLOCATORS = {"default": "memory given back", "kept": "memory kept"}


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


ENGINES = {
    OURS: "keras_transformer",
    "keras_hub": "keras_hub layers",
    "keras_mha": "keras.layers.MultiHeadAttention",
    "torch": "torch.nn.Transformer",
    BEFORE: "keras_transformer, before",
}
KERAS_MODELS = {
    OURS: our_model,
    BEFORE: our_model,
    "keras_hub": keras_hub_model,
    "keras_mha": keras_mha_model,
}


@dataclasses.dataclass(frozen=True)
class Way:
    """An engine with a loss and with what the C library does with freed memory."""

    engine: str
    loss: str = "own"
    allocator: str = "default"

    @property
    def own_loss(self) -> str:
        """The name of the loss that is the engine's own."""
        return {OURS: "ours", BEFORE: "ours", "torch": "own", RATE: "own"}.get(self.engine, "keras")

    @property
    def title(self) -> str:
        """For people."""
        parts = (ENGINES.get(self.engine, self.engine), LOSSES[self.loss], ALLOCATORS[self.allocator])
        return ", ".join(parts)

    def build(self, options):
        """In a fresh process: the number of parameters, and a function from a count to (stamps of steps, mean loss)."""
        if self.allocator == "kept":  # from the file alone: the package would import Keras into torch's process, too
            allocator = REPOSITORY / "keras_transformer" / "allocator.py"
            if not runpy.run_path(str(allocator))["keep_freed_memory"]():
                raise SystemExit("The C library of this system is not glibc: take --allocators default.")
        if self.engine == BEFORE:
            sys.path.insert(0, str(options.before))
        if self.engine in KERAS_MODELS:
            loss = self.own_loss if self.loss == "own" else self.loss
            return keras_engine(KERAS_MODELS[self.engine], {"ours": our_loss, "keras": keras_loss}[loss], options)
        return torch_engine(options) if self.engine == "torch" else rate_engine(options)


def ways_of(options) -> list[Way]:
    """What is measured: all engines with their own loss, and the Keras engines with the other one."""
    ways = []
    for engine in options.engines:
        losses = [
            loss for loss in options.losses if loss == "own" or engine != "torch" and loss != Way(engine).own_loss
        ]
        ways += [Way(engine, loss, allocator) for loss in losses for allocator in options.allocators]
    return [*ways, *([Way(BEFORE)] if options.before else [])]


# ---- the measurement ----


def peak_bytes() -> int:
    """The most memory this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_bytes() -> int:
    """The memory this process has resident now (where the system does not tell: has had at most)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else peak_bytes()


def give_back() -> None:
    """Let the C library give free memory back to the system, where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def work(way: Way, options, connection, log: str, builders) -> None:
    """The life of an engine's process: build, then make as many steps as asked for, time and again."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)  # the first process says when to end
    os.dup2(os.open(log, os.O_WRONLY), sys.stderr.fileno())  # libraries tell much here that is not the table
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with builders:  # a few at a time, for the machine's memory
        parameters, make_steps = way.build(options)
        give_back()
        idle = resident_bytes()
        make_steps(WARM_UP)  # tracing, and the first use of each buffer
        give_back()
    connection.send({"parameters": parameters, "idle_bytes": idle})
    while count := connection.recv():
        times, loss = make_steps(count)
        seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
        connection.send({"seconds": seconds, "loss": loss, "peak_bytes": peak_bytes() - idle})
        give_back()


class Worker:
    """An engine in its own process."""

    def __init__(self, way: Way, options, context, builders):
        self.way = way
        self.log = tempfile.NamedTemporaryFile(mode="r", suffix=".log")
        self.connection, theirs = context.Pipe()
        arguments = (way, options, theirs, self.log.name, builders)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.facts = {}
        self.rounds = []

    def wait(self) -> None:
        """Until the engine is built."""
        self.facts = self._receive()

    def _receive(self) -> dict:
        try:
            return self.connection.recv()
        except EOFError:
            raise SystemExit(f"{self.way.title} stopped:\n{self.log.read()}") from None

    def measure(self, steps: int) -> None:
        """One round: keep the seconds of each step behind the first few."""
        self.connection.send(steps + SKIPPED)
        answer = self._receive()
        self.rounds.append(answer["seconds"][SKIPPED:])
        self.facts.update(loss=answer["loss"], peak_bytes=answer["peak_bytes"])

    def close(self) -> None:
        """Wait for the process's end, once it was told."""
        self.process.join()
        self.log.close()

    @property
    def seconds(self) -> list[float]:
        """Of all steps of all rounds."""
        return [second for one in self.rounds for second in one]


def progress(text: str = "") -> None:
    """What is going on, on a line that the next one replaces."""
    print(f"\r{text:<100}" if text else "\r" + " " * 100 + "\r", end="", file=sys.stderr, flush=True)


def measure(options) -> dict:
    """Run all engines in turns and return every figure."""
    context = multiprocessing.get_context("spawn")
    builders = context.Semaphore(options.threads)
    workers = [Worker(way, options, context, builders) for way in [*ways_of(options), Way(RATE)]]
    for worker in workers:
        progress(f"building {worker.way.title}")
        worker.wait()
    try:
        for number in range(options.rounds):
            for worker in workers if number % 2 == 0 else workers[::-1]:
                progress(f"round {number + 1} of {options.rounds}: {worker.way.title}")
                worker.measure(options.steps)
    except KeyboardInterrupt:  # stopped: what is whole counts
        if number == 0:
            raise
        for worker in workers:
            del worker.rounds[number:]
    progress()
    for worker in workers:
        worker.connection.send(0)
    for worker in workers:
        worker.close()

    *workers, rate = workers
    machine_rate = 2 * CUBE**3 / statistics.median(rate.seconds)
    medians = {worker.way: statistics.median(worker.seconds) for worker in workers}
    rows = {}
    for worker in workers:
        way, median = worker.way, medians[worker.way]
        loss = way.own_loss if way.loss == "own" and way.engine != "torch" else way.loss
        # With the same loss where it is Keras' own or ours for both; each library's own otherwise.
        ours = medians.get(Way(OURS, "own", way.allocator))
        same = medians.get(Way(OURS, "own" if loss == "ours" else loss, way.allocator))
        deciles = statistics.quantiles(worker.seconds, n=10)
        rows[way] = {
            "median_ms": 1e3 * median,
            "p10_ms": 1e3 * deciles[0],
            "p90_ms": 1e3 * deciles[-1],
            "round_medians_ms": [1e3 * statistics.median(one) for one in worker.rounds],
            "steps": len(worker.seconds),
            "ours_over_this": ours / median if ours else None,
            "ours_with_this_loss_over_this": same / median if same else None,
            "fraction_of_matmul_rate": step_operations() / median / machine_rate,
            "peak_mib": worker.facts["peak_bytes"] / 2**20,
            "idle_mib": worker.facts["idle_bytes"] / 2**20,
            "parameters": worker.facts["parameters"],
            "mean_loss_of_last_round": worker.facts["loss"],
        }
    plain = {way.engine: row for way, row in rows.items() if (way.loss, way.allocator) == ("own", "default")}
    ways = {engine: {} for engine in plain}
    for way, row in rows.items():
        loss = way.own_loss if way.loss == "own" else way.loss
        ways.setdefault(way.engine, {})[f"{loss}, {way.allocator}"] = row
    return {
        "seed": options.seed,
        "threads": options.threads,
        "jit_compile": options.jit_compile,
        "rounds": len(rate.rounds),
        "steps_per_round": options.steps,
        "operations_per_step": step_operations(),
        "matmul_gflops_per_second": machine_rate / 1e9,
        "matmul_gflops_per_second_by_round": [2 * CUBE**3 / statistics.median(one) / 1e9 for one in rate.rounds],
        "engines": plain,
        "ways": ways,
        "shares": {engine: shares(found) for engine, found in ways.items()},
    }


def shares(ways: dict) -> dict:
    """What part of the time of the slower way the loss and the allocator are, for an engine."""
    pairs = {
        "loss": ("keras, default", "ours, default"),
        "loss, memory kept": ("keras, kept", "ours, kept"),
        "allocator, our loss": ("ours, default", "ours, kept"),
        "allocator, Keras loss": ("keras, default", "keras, kept"),
        "allocator": ("own, default", "own, kept"),
    }
    return {
        name: 1 - ways[fast]["median_ms"] / ways[slow]["median_ms"]
        for name, (slow, fast) in pairs.items()
        if slow in ways and fast in ways
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
        f"{report['matmul_gflops_per_second']:.0f} GFLOP/s with {report['threads']} threads.\n"
    )
    lines.append(f"{'engine, with this loss and this allocator':<64}{'ms a step':>11}{'ours/this':>11}{'peak MiB':>10}")
    for engine, ways in report["ways"].items():
        for name, row in ways.items():
            loss, allocator = name.split(", ")
            ratio = row["ours_with_this_loss_over_this"] or row["ours_over_this"]
            title = Way(engine, loss, allocator).title
            lines.append(
                f"{title:<64}{row['median_ms']:>11.1f}{f'{ratio:.2f}' if ratio else '-':>11}{row['peak_mib']:>10.0f}"
            )
    for engine, found in report["shares"].items():
        told = ", ".join(f"{name} {share:.2f}" for name, share in found.items())
        lines += [f"Shares of the step of {ENGINES[engine]}: {told}"] if told else []
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = make_parser(__doc__, "train_step")
    engines = [name for name in ENGINES if name != BEFORE]
    parser.add_argument("--engines", nargs="+", choices=engines, default=[OURS, "torch"] if QUICK else engines)
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES), help="default: %(default)s")
    parser.add_argument(
        "--allocators", nargs="+", choices=list(ALLOCATORS), default=list(ALLOCATORS)[: 1 if QUICK else 2]
    )
    parser.add_argument("--before", type=Path, help="folder with another version of the package, to compare with")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 5, help="turns of each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2 if QUICK else 15, help="timed in a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument(
        "--jit-compile", choices=["auto", "always"], default="auto", help="XLA for the Keras engines; auto is fit's own"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if min(options.rounds, options.steps, options.threads) < 1 or options.rounds * options.steps < 2:
        parser.error("takes positive --rounds, --steps and --threads, and at least two steps in all.")
    if options.before and not (options.before / "keras_transformer").is_dir():
        parser.error(f"--before takes a folder with a folder keras_transformer, got {options.before}.")

    options.before = options.before and options.before.resolve()
    options.jit_compile = True if options.jit_compile == "always" else "auto"
    report = measure(options)
    print(table(report))
    save_results(options.output, "benchmarks/train_step.py", report)


if __name__ == "__main__":
    main()
