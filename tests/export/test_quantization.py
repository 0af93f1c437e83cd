"""Quantized LiteRT files are smaller, run, and say how often they agree with Python."""

import numpy as np
import pytest

import keras_transformer as kt

from .conftest import OPTIONS, roughen

pytest.importorskip("ai_edge_litert")
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def model():
    """Large enough for weights to fill most of the file, with as confident a head as a trained one has."""
    model = roughen(kt.models.transformer(199, 197, num_layers=1, dim=96, num_heads=4, intermediate_dim=128))
    return kt.Generator(model, max_length=7, **OPTIONS)


@pytest.fixture(scope="module")
def reports(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    names = (None, "float16", "int8", "int4")
    options = {"source_length": 5, "batch_size": 2}
    return {name: kt.export.litert(model, folder / f"{name}.tflite", quantize=name, **options) for name in names}


@pytest.mark.parametrize("name, at_most", [("float16", 0.57), ("int8", 0.33), ("int4", 0.60)])
def test_weights_take_less_room(name, at_most, reports):
    assert reports[name].size < at_most * reports[None].size


@pytest.mark.parametrize("name, tolerance", [("float16", 0.01), ("int8", 0.2)])
def test_answers_are_near(name, tolerance, reports, model):
    source = np.array([[5, 9, 122, 4, 7], [11, 6, 0, 0, 0]], "int32")
    outputs = kt.export.load(reports[name].path)(source)
    first = model(source)["tokens"][:, 0, 1], outputs["tokens"][:, 0, 1]
    np.testing.assert_array_equal(*first)
    np.testing.assert_allclose(outputs["scores"], model(source)["scores"], rtol=tolerance)


def test_float32_and_float16_agree_and_every_report_says_so(reports):
    assert reports[None].agreement == reports["float16"].agreement == 1.0
    assert all(0 <= report.agreement <= 1 for report in reports.values())


def test_an_unknown_kind(model, tmp_path):
    with pytest.raises(ValueError, match="'int3'"):
        kt.export.litert(model, tmp_path / "model.tflite", source_length=5, quantize="int3")


def test_layouts(model, tmp_path):
    with pytest.raises(ValueError, match="'loop'"):
        kt.export.litert(model, tmp_path / "model.tflite", source_length=5, layout="loop")
    with pytest.raises(ValueError, match="'step' for a Generator"):
        kt.export.litert(model.model, tmp_path / "model.tflite", source_length=5, layout="step")
