"""A mixture of experts leaves Python as any other layer does."""

import pytest

import keras_transformer as kt

from .conftest import OPTIONS, SIZES, roughen

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def generator():
    """One that continues prompts; its exports compare themselves with it."""
    sizes = {name: size for name, size in SIZES.items() if name != "intermediate_dim"}
    model = kt.models.language_model(29, feed_forward=lambda: kt.MixtureOfExperts(5, 13, gated=True), **sizes)
    return kt.Generator(roughen(model), max_length=11, **OPTIONS)


def test_saved_model(generator, tmp_path):
    report = kt.export.saved_model(generator, tmp_path / "experts")
    assert report.agreement == 1.0


@pytest.mark.parametrize("layout", ["generate", "step"])
def test_litert(generator, layout, tmp_path):
    pytest.importorskip("ai_edge_litert")
    report = kt.export.litert(generator, tmp_path / "experts.tflite", source_length=7, layout=layout)
    assert report.agreement == 1.0
