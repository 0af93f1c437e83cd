"""MNIST's files are read as they are laid out, images are moved a little, and the script runs."""

import gzip
import importlib
import json
import struct
import sys

import keras
import numpy as np
import pytest

from .scripts import EXAMPLES, run_script

pytestmark = [pytest.mark.tensorflow, pytest.mark.once]
pytest.importorskip("matplotlib")
COUNTS = {"train": 700, "t10k": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files as MNIST's, with a bright square where the digit says; and the arrays in them."""
    path, arrays = tmp_path_factory.mktemp("mnist"), {}
    for part, count in COUNTS.items():
        random = np.random.default_rng(count)
        digits = (np.arange(count) % 10).astype(np.uint8)
        images = random.integers(0, 40, (count, 28, 28)).astype(np.uint8)
        for image, digit in zip(images, digits, strict=True):
            image[2 * digit + 2 : 2 * digit + 9, 6:20] = 250
        arrays[part] = images, digits
        for kind, x in (("images-idx3", images), ("labels-idx1", digits)):
            head = struct.pack(f">{1 + x.ndim}i", 2048 + x.ndim, *x.shape)
            (path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + x.tobytes()))
    return path, arrays


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("vision")
    sys.path.remove(str(EXAMPLES))


@pytest.mark.parametrize("part", COUNTS)
def test_files_are_read(example, folder, part):
    images, digits = example.read(folder[0], part)
    expected, labels = folder[1][part]
    assert images.shape == (COUNTS[part], 28, 28, 1) and images.dtype == "float32"
    np.testing.assert_allclose(images[..., 0], expected / 255.0, atol=1e-7)
    np.testing.assert_array_equal(digits, labels)


def test_augmented_images_keep_their_digits_and_move_a_little(example):
    images = np.zeros((256, 28, 28, 1), "float32")
    images[:, 12:16, 12:16] = 1
    batches = [(x.numpy(), y.numpy()) for x, y in example.augmented(images, np.arange(256), seed=1)]
    assert [x.shape for x, _ in batches] == [(128, 28, 28, 1)] * 2
    assert sorted(np.concatenate([y for _, y in batches])) == [*range(256)]
    seen = np.concatenate([x for x, _ in batches])[..., 0]
    weights = seen.sum(axis=(1, 2))
    rows = (seen.sum(axis=2) @ np.arange(28)) / weights
    assert 0.5 < rows.std() < 2.5 and abs(rows - 13.5).max() < 4.5
    assert abs(weights / 16 - 1).max() < 0.4 and weights.std() > 0.5
    again = next(iter(example.augmented(images, np.arange(256), seed=1)))
    np.testing.assert_array_equal(again[1], batches[0][1])


def test_error_is_the_share_of_wrong_digits(example):
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 2.9, 0.0], [-5.0, -4.0, -3.0], [1.0, 0.0, 0.0]])
    assert example.error(logits, np.array([1, 1, 2, 0])) == 0.25


def test_what_is_looked_at_is_the_class_tokens_attention_in_the_last_layer(example):
    """By hand: q k of the layer that the logits are made of, of the vector that no pixel changes before the layers."""
    model, images = example.build(), np.random.default_rng(0).random((3, 28, 28, 1)).astype("float32")
    for weight in model.weights:  # larger ones, so that layers, heads and rows differ
        if weight.path.endswith("kernel"):
            weight.assign(2.0 * weight)
    token = next(layer for layer in model.layers if type(layer).__name__ == "ClassToken").output
    blocks = [layer for layer in model.layers if type(layer).__name__ == "EncoderLayer"]
    seen, by_layer = example.looked_at(model, images), []
    for block in blocks:
        x = np.asarray(keras.Model(model.inputs, block.input)(images), "float64")
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + block.norm_epsilon)
        weights = {w.path.removeprefix(block.path): np.asarray(w, "float64") for w in block.weights}
        kernel = weights["/self_attention/query_key_value/kernel"].reshape(64, 3, 4, 16)  # of 4 heads
        bias = weights["/self_attention/query_key_value/bias"].reshape(3, 4, 16)
        query, key, _ = np.moveaxis(np.einsum("btd,dnhk->bthnk", x, kernel) + np.moveaxis(bias, 0, 1), 3, 0)
        scores = np.exp(np.einsum("bhk,bshk->bhs", query[:, 0], key) / 4.0)
        by_layer.append((scores / scores.sum(-1, keepdims=True))[:, :, 1:].mean(1).reshape(3, 4, 4))
    before = np.asarray(keras.Model(model.inputs, token)(images))
    assert (before[0, 0] == before[1, 0]).all() and (before[0, 1:] != before[1, 1:]).any(-1).all()
    last = next(i for i, block in enumerate(blocks) if not any(block.output is x.input for x in blocks))
    np.testing.assert_allclose(seen, by_layer[last], rtol=1e-3)
    assert all(abs(seen - x).max() > 1e-3 for i, x in enumerate(by_layer) if i != last)


@pytest.mark.slow
def test_a_run(folder, tmp_path):
    run_script("vision.py", tmp_path, "--data", str(folder[0]), "--quick", "--output", str(tmp_path))
    figures = json.loads((tmp_path / "examples" / "results" / "vision.json").read_text())
    assert figures["quick"] and figures["examples"] == {"train": 560, "validation": 140, "test": 100}
    assert figures["mean_test_error"] == figures["runs"][0]["test_error"]
    different = {name: export["largest_difference"] for name, export in figures["exports"].items()}
    assert 100 * different["vision.tflite"] < different["vision-int8.tflite"]
    assert figures["exports"]["vision-int8.tflite"]["mib"] < figures["exports"]["vision.tflite"]["mib"]
    assert (tmp_path / "docs" / "examples" / "vision.png").exists()
