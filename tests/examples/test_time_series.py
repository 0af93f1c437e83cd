"""The windows of the example are the standard ones, its errors are of all of them, and its script runs."""

import importlib
import json
import sys

import numpy as np
import pytest

from .scripts import EXAMPLES, run_script
from .waves import NAMES, write_waves

pytestmark = [pytest.mark.tensorflow, pytest.mark.once]
pytest.importorskip("matplotlib")
STARTS = {"train": 0, "validation": 8640 - 336, "test": 11_520 - 336}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    return path, write_waves(path)


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("time_series")
    sys.path.remove(str(EXAMPLES))


def standard(values):
    """In the mean and the deviation of the first 8,640 hours."""
    first = values[:8640]
    return (values - first.mean(axis=0)) / np.sqrt(np.square(first - first.mean(axis=0)).mean(axis=0))


def test_windows_are_the_standard_ones(example, folder, assert_close):
    path, values = folder
    names, read = example.read(path / "ETTh1.csv.gz")
    assert names == [*NAMES]
    expected = standard(values)
    assert_close(read, expected)
    for part, count in {"train": 8209, "validation": 2785, "test": 2785}.items():
        history, future = example.windows(read, part)
        assert history.shape == (count, 336, 3) and future.shape == (count, 96, 3)
        for window in (0, 1, 1234, count - 1):
            begin = STARTS[part] + window
            assert_close(history[window], expected[begin : begin + 336])
            assert_close(future[window], expected[begin + 336 : begin + 432])
    assert STARTS["test"] + 2784 + 432 == 14_400  # the last window ends with the 20 months


def test_errors_are_of_all_values_alike(example, assert_close):
    forecast, truth = np.array([[[1.0, 2.0]], [[3.0, 9.0]]]), np.array([[[1.0, 4.0]], [[3.0, 5.0]]])
    assert example.errors(forecast, truth) == {"mse": 5.0, "mae": 1.5}


def test_each_channel_is_by_itself_and_scale_comes_back(example, assert_close):
    model = example.build(3, dim=8, num_heads=2, intermediate_dim=8, num_layers=1, dropout=0.3)
    random = np.random.default_rng(1)
    x = random.normal(size=(2, 336, 3)).astype("float32")
    before = model.predict(x, verbose=0)
    changed = x.copy()
    changed[:, :, 1] = random.normal(size=(2, 336))
    after = model.predict(changed, verbose=0)
    assert_close(after[..., [0, 2]], before[..., [0, 2]], 1e-5)
    assert np.abs(after[..., 1] - before[..., 1]).max() > 0.1
    scaled = model.predict(100.0 * x + np.array([5.0, -7.0, 11.0], "float32"), verbose=0)
    assert_close(scaled, 100.0 * before + np.array([5.0, -7.0, 11.0]), 1e-3)
    moved = model.predict(x[:, :, [2, 0, 1]], verbose=0)
    assert_close(moved, before[..., [2, 0, 1]], 1e-5)


@pytest.mark.slow
def test_the_script_runs(folder, tmp_path):
    path, values = folder
    run_script("time_series.py", tmp_path, "--data", str(path), "--seeds", "3", "--quick", "--output", "here")
    figures = json.loads((tmp_path / "here" / "examples" / "results" / "time_series.json").read_text())
    assert figures["quick"] is True and figures["windows"] == {"train": 21, "validation": 7, "test": 7}
    (run,) = figures["runs"]
    assert run["seed"] == 3 and run["test_mse"] == figures["mean_test_mse"]
    expected, begins = standard(values), [11_520 - 336 + 400 * i for i in range(7)]
    last, day = [], []
    for begin in begins:
        history, future = expected[begin : begin + 336], expected[begin + 336 : begin + 432]
        last.append(history[-1] - future)
        day.append(np.concatenate([history[-24:]] * 4) - future)
    for name, differences in {"last_value": last, "last_day": day}.items():
        assert figures[name]["mse"] == pytest.approx(np.square(differences).mean(), rel=1e-4)
        assert figures[name]["mae"] == pytest.approx(np.abs(differences).mean(), rel=1e-4)
    exports = figures["exports"]
    assert 100 * exports["litert"]["largest_difference"] < exports["litert_int8"]["largest_difference"]
    assert exports["litert_int8"]["kilobytes"] < exports["litert"]["kilobytes"]
    assert (tmp_path / "here" / "docs" / "examples" / "time_series.png").stat().st_size > 10_000
