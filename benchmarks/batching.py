"""Real tokens a second through a training step, by how sentences of many lengths become batches.

A Transformer, German to English on the Multi30k data set, words as tokens, Adam, on TensorFlow; each way gives the step
about as many real tokens:

    plain      64 sentences, padded to the longest one of the data set
    batch      64 sentences, padded to the longest one of the batch
    bucketing  kt.training.TokenBatches: sentences of similar length, 1024 positions on each side
    packing    kt.training.PackedBatches: 16 rows of 64 positions on each side

A round is some steps of `model.fit` on the pipeline as it is, all ways take turns, and the median round counts.

    python benchmarks/batching.py --data DIR      the folder of the data set; without --data it is downloaded
"""

import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from report import QUICK, make_parser, save_results

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from multi30k import read_multi30k

START, END, SEED = 2, 3, 0
BATCH, BUDGET, ROWS, ROW = (4, 64, 2, 32) if QUICK else (64, 1024, 16, 64)


def make_up_texts() -> list[list[str]]:
    """Sentences of 3 to 20 words in two languages of ten words each, for --quick."""
    random = np.random.default_rng(SEED)
    lengths = random.integers(3, 21, (2, 200))
    return [[" ".join(map(str, random.integers(0, 10, length))) for length in side] for side in lengths]


def encode(sentences: list[str]) -> tuple[list[list[int]], int]:
    """Ids of the words seen twice or more, others 1, with the end id; and the size of the vocabulary."""
    counts = Counter(word for sentence in sentences for word in sentence.split())
    ids = {word: i + 4 for i, (word, n) in enumerate(counts.most_common()) if n > 1}
    return [[*(ids.get(word, 1) for word in sentence.split()), END] for sentence in sentences], len(ids) + 4


def padded_pairs(pairs, *, trim: bool):
    """Batches of 64, padded to the longest of the data set, or trimmed to the longest of the batch."""

    def shortened(ids):
        return ids[:, : tf.reduce_max(tf.math.count_nonzero(ids, axis=1))] if trim else ids

    source, target = (keras.utils.pad_sequences(side, padding="post") for side in zip(*pairs, strict=True))
    data = tf.data.Dataset.from_tensor_slices((source, target))
    data = data.shuffle(len(pairs), seed=SEED, reshuffle_each_iteration=False).batch(BATCH, drop_remainder=True)
    data = data.map(lambda source, target: (shortened(source), shortened(target)), num_parallel_calls=tf.data.AUTOTUNE)
    return data.map(lambda source, target: ((source, target[:, :-1]), target[:, 1:])).prefetch(tf.data.AUTOTUNE)


def build_model(vocabulary_sizes, *, packed: bool, num_layers: int, dim: int, num_heads: int) -> keras.Model:
    """A Transformer, for packed rows if told so."""
    names = [f"{side}{part}" for side in ("source", "target") for part in ("", "_segment_ids", "_positions")]
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    options = {"num_heads": num_heads, "intermediate_dim": 2 * dim, "dropout": 0.1}
    segments, positions = (
        {side: inputs[f"{side}_{part}"] if packed else None for side in ("source", "target")}
        for part in ("segment_ids", "positions")
    )
    embeddings = dict(
        zip(("source", "target"), (kt.TokenEmbedding(size, dim, scale=True) for size in vocabulary_sizes), strict=True)
    )
    memory, y = (
        kt.PositionalEncoding()(embeddings[side](inputs[side]), positions=positions[side])
        for side in ("source", "target")
    )
    for _ in range(num_layers):
        memory = kt.EncoderLayer(**options)(memory, segment_ids=segments["source"])
    for _ in range(num_layers):
        y = kt.DecoderLayer(**options)(y, memory, segment_ids=segments["target"], memory_segment_ids=segments["source"])
    inputs = inputs if packed else [inputs["source"], inputs["target"]]
    model = keras.Model(inputs, embeddings["target"](y, reverse=True))
    model.compile(keras.optimizers.Adam(1e-4), kt.training.SequenceCrossentropy(label_smoothing=0.1))
    return model


class Clock(keras.callbacks.Callback):
    """Notes when each step ended."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def count(batch) -> tuple[int, int]:
    """Real tokens and positions of a batch: of sources and of decoder inputs."""
    inputs, _ = batch
    source, target = (inputs["source"], inputs["target"]) if isinstance(inputs, dict) else inputs
    return int(np.count_nonzero(source) + np.count_nonzero(target)), source.size + target.size


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, "batching")
    parser.add_argument("--data", type=Path, help="folder of the Multi30k data set")
    parser.add_argument("--num-layers", type=int, default=1 if QUICK else 3, help="of the encoder and of the decoder")
    parser.add_argument("--dim", type=int, default=16 if QUICK else 256)
    parser.add_argument("--num-heads", type=int, default=2 if QUICK else 8)
    parser.add_argument("--steps", type=int, default=2 if QUICK else 30, help="of a round")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 5)
    options = parser.parse_args()

    texts = make_up_texts() if QUICK else read_multi30k(options.data, ("de", "en"))["train"]
    (sources, source_size), (targets, target_size) = map(encode, texts)
    pairs = [(source, [START, *target]) for source, target in zip(sources, targets, strict=True)]
    bucketing = kt.training.TokenBatches(pairs, tokens_per_batch=BUDGET, seed=SEED)
    packing = kt.training.PackedBatches(pairs, length=ROW, batch_size=ROWS, seed=SEED)
    ways = {
        "plain": padded_pairs(pairs, trim=False),
        "batch": padded_pairs(pairs, trim=True),
        "bucketing": bucketing.dataset(),
        "packing": packing.dataset(),
    }
    print(bucketing, packing, sep="\n", flush=True)

    models, counts, seconds, clock = {}, {}, {name: [] for name in ways}, Clock()
    for name, data in ways.items():
        models[name] = build_model(
            (source_size, target_size),
            packed=name == "packing",
            num_layers=options.num_layers,
            dim=options.dim,
            num_heads=options.num_heads,
        )
        # The step before the first that counts waits for the pipeline to start.
        counts[name] = [count(batch) for batch in data.take(options.steps + 1).as_numpy_iterator()][1:]
        models[name].fit(data, steps_per_epoch=2, verbose=0)  # traces
    for _ in range(options.rounds):
        for name, data in ways.items():
            models[name].fit(data, steps_per_epoch=options.steps + 1, verbose=0, callbacks=[clock])
            seconds[name].append(clock.ends[-1] - clock.ends[0])

    rows = {}
    print(f"{'':12}{'tokens a step':>14}{'padding':>9}{'ms a step':>11}{'tokens/s':>10}{'times plain':>13}")
    for name in ways:
        real, positions = (sum(column) for column in zip(*counts[name], strict=True))
        took = statistics.median(seconds[name])
        rows[name] = {
            "tokens_per_step": real / options.steps,
            "padding_ratio": 1 - real / positions,
            "ms_per_step": 1000 * took / options.steps,
            "tokens_per_second": real / took,
            "seconds_of_rounds": seconds[name],
        }
        rows[name]["times_plain"] = rows[name]["tokens_per_second"] / rows["plain"]["tokens_per_second"]
        print(
            f"{name:12}{real / options.steps:14.0f}{1 - real / positions:9.1%}{1000 * took / options.steps:11.1f}"
            f"{real / took:10.0f}{rows[name]['times_plain']:13.2f}"
        )
    whole = {name: {"padding_ratio": way.padding_ratio, "steps_per_epoch": way.steps_per_epoch, "shapes": way.shapes}
             for name, way in (("bucketing", bucketing), ("packing", packing))}  # fmt: skip
    settings = {name: getattr(options, name) for name in ("num_layers", "dim", "num_heads", "steps", "rounds")}
    save_results(
        options.output,
        "benchmarks/batching.py",
        {"seed": SEED, **settings, "real_tokens": rows, "whole_epoch": whole},
    )


if __name__ == "__main__":
    main()
