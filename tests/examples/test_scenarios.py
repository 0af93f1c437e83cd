"""What the example says of the next hour is a density, what it draws has it, and its score is the definition's."""

import importlib
import json
import sys

import numpy as np
import pytest
from keras import ops

from .scripts import EXAMPLES, run_script
from .waves import write_waves

pytestmark = [pytest.mark.tensorflow, pytest.mark.once]
pytest.importorskip("matplotlib")
OUTPUTS = np.array([[0.3, -1.0, 0.9, 0.1, -2.0, 0.0, 1.5, 4.0, -0.7, 0.2, -1.2, -2.0]], "float32")  # w, m, log s


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("scenarios")
    sys.path.remove(str(EXAMPLES))


def distribution(x):
    """F(x) of the mixture, in float64."""
    weights, places, widths = np.split(OUTPUTS[0].astype("float64"), 3)
    shares = np.exp(weights) / np.exp(weights).sum()
    return (shares / (1 + np.exp(-(x[:, None] - places) / np.exp(widths)))).sum(axis=1)


def test_density_is_the_slope_of_the_distribution(example):
    x = np.linspace(-12.0, 12.0, 4001)
    densities = np.exp(ops.convert_to_numpy(example.log_densities(x[:, None].astype("float32"), OUTPUTS)))
    np.testing.assert_allclose(densities, np.gradient(distribution(x), x), atol=2e-3)
    assert densities.sum() * (x[1] - x[0]) == pytest.approx(1.0, abs=2e-3)


def test_what_is_drawn_has_the_distribution(example):
    random = np.random.default_rng(0)
    drawn = example.draw(np.repeat(OUTPUTS, 20_000, axis=0), lambda k: random.random((20_000, k)).astype("float32"))
    ordered = np.sort(ops.convert_to_numpy(drawn).ravel().astype("float64"))
    steps = np.arange(1, 20_001) / 20_000
    assert np.abs(distribution(ordered) - steps).max() < 1.95 / np.sqrt(20_000)  # Kolmogorov and Smirnov, 0.1 %


def test_score_is_the_definition(example):
    random = np.random.default_rng(1)
    scenarios, truth = random.normal(size=(2, 7, 3, 5)), random.normal(size=(2, 3, 5))
    to_truth = np.mean([[abs(x - y) for x in rows] for rows, y in zip(scenarios, truth, strict=True)])
    apart = np.mean([[abs(x - y) for x in rows for y in rows] for rows in scenarios])
    assert example.crps(scenarios, truth) == pytest.approx(to_truth - apart / 2)
    same = np.repeat(scenarios[:, :1], 4, axis=1)
    assert example.crps(same, truth) == pytest.approx(np.abs(same[:, 0] - truth).mean())
    judged = example.judge(np.arange(101.0).reshape(1, -1, 1, 1), np.full((1, 1, 1), 80.0))
    assert (judged["within_50%"], judged["within_90%"], judged["mae"]) == (0.0, 1.0, 30.0)


def test_rows_are_channels_normalized_by_their_week(example, assert_close):
    random = np.random.default_rng(2)
    history, future = 5 + random.normal(size=(2, 336, 3)), 5 + random.normal(size=(2, 96, 3))
    x, y = example.rows(history, future)
    assert x.shape == (6, 263, 1) and y.shape == (6, 96, 1)
    week = history[1, -168:, 2]
    expected = (np.concatenate([week, future[1, :, 2]]) - week.mean()) / week.std()
    assert_close(x[5, :, 0], expected[:-1], 1e-4)
    assert_close(y[5, :, 0], expected[168:], 1e-4)


@pytest.mark.slow
def test_the_script_runs(tmp_path):
    write_waves(tmp_path)
    run_script("scenarios.py", tmp_path, "--data", str(tmp_path), "--quick", "--output", "here")
    figures = json.loads((tmp_path / "here" / "examples" / "results" / "scenarios.json").read_text())
    assert figures["quick"] is True and figures["windows"] == 6 and figures["scenarios"] == 10
    assert {"crps", "within_90%", "validation_surprise"} <= set(figures["runs"][0])
    assert set(figures["exports"]) == {"saved_model", "litert"}
    assert (tmp_path / "here" / "docs" / "examples" / "scenarios.png").stat().st_size > 10_000
