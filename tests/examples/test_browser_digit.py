"""The page of digits in headless Chromium: drawings become images as in Python, and are read as the file reads them."""

import importlib
import sys

import numpy as np
import pytest

import keras_transformer as kt
import keras_transformer_runtime

from .browser import drive, need_browser
from .scripts import EXAMPLES

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
pytest.importorskip("ai_edge_litert")
pytest.importorskip("matplotlib")

need_browser()

TURN = np.linspace(0, 2 * np.pi, 40)
DRAWINGS = [
    [[140, 40], [141, 120], [139, 240]],  # high
    [[20, 130], [260, 133]],  # wide
    np.stack([140 + 50 * np.sin(TURN), 150 - 90 * np.cos(TURN)], axis=1).tolist(),
    [[90, 60], [190, 60], [120, 230]],
    [[70, 70]],  # a dot
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the file of a random model is."""
    sys.path.insert(0, str(EXAMPLES))
    model = importlib.import_module("vision").build()
    sys.path.remove(str(EXAMPLES))
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(size=weight.shape) * (2 / np.prod(weight.shape[:-1])) ** 0.5)
    path = tmp_path_factory.mktemp("models")
    kt.export.litert(model, path / "vision-int8.tflite", quantize="int8")
    return path


@pytest.fixture(scope="module")
def shown(folder):
    """What the page showed."""
    return drive("drive_digit.js", "digit.html", folder, drawings=DRAWINGS)


def shares(size: int, count: int) -> np.ndarray:
    """A matrix (count, size) that takes the mean over what each new pixel covers."""
    edges = np.linspace(0, size, count + 1)
    old = np.arange(size)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.maximum(covered, 0) * count / size


def centred(ink: np.ndarray) -> np.ndarray:
    """In a box of 20 x 20, its centre of mass in the middle of 28 x 28 (http://yann.lecun.com/exdb/mnist)."""
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, int(size * 20 / max(box.shape) + 0.5)) for size in box.shape)
    small = shares(box.shape[0], height) @ box @ shares(box.shape[1], width).T
    top, left = (
        min(28 - size, max(0, int(np.floor(14 - small.sum(axis=1 - axis) @ np.arange(size) / small.sum()))))
        for axis, size in enumerate(small.shape)
    )
    image = np.zeros((28, 28))
    image[top : top + height, left : left + width] = small
    return image


def test_nothing_is_fetched_from_elsewhere_and_nothing_fails(shown):
    assert shown["addresses"] == [shown["host"]] and shown["errors"] == []
    assert len(shown["seen"]) == len(DRAWINGS)


def test_a_drawing_is_scaled_and_centred_as_mnist_is(shown):
    for seen in shown["seen"]:
        ink = np.reshape(seen["ink"], (280, 280))
        assert 0.003 < ink.mean() < 0.5
        image = np.reshape(seen["pixels"], (28, 28))
        np.testing.assert_allclose(image, centred(ink), atol=1e-6)
        assert max(np.ptp(np.flatnonzero(image.any(axis=axis))) for axis in (0, 1)) == 19


def test_it_is_read_as_the_file_is_in_python(shown, folder):
    images = np.reshape([seen["pixels"] for seen in shown["seen"]], (-1, 28, 28, 1)).astype("float32")
    (logits,) = keras_transformer_runtime.load(folder / "vision-int8.tflite")(images).values()
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = weights / weights.sum(axis=1, keepdims=True)
    probabilities = np.array([seen["probabilities"] for seen in shown["seen"]])
    # A processor's kernels round int8 products in their own way.
    np.testing.assert_allclose(probabilities, expected, atol=0.05)
    assert [seen["answer"] for seen in shown["seen"]] == probabilities.argmax(axis=1).tolist()
    assert len({tuple(np.round(row, 3)) for row in probabilities}) == len(DRAWINGS)
