"""What the scripts of examples share: what is kept of trainings."""

import importlib
import json

import pytest

from .scripts import EXAMPLES


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("common")


def test_runs_are_kept_with_their_settings(common, tmp_path):
    path, settings = tmp_path / "runs.json", {"epochs": 3, "sizes": (2, 3)}
    runs = common.Runs(path, settings)
    assert runs == {}
    runs["scratch 0"] = {"test": 0.5}
    again = common.Runs(path, settings)
    assert again == {"scratch 0": {"test": 0.5}} and "scratch 1" not in again
    again["scratch 1"] = {"test": 0.75}
    assert json.loads(path.read_text())["runs"] == {"scratch 0": {"test": 0.5}, "scratch 1": {"test": 0.75}}
    with pytest.raises(SystemExit, match="trainings with .*'epochs': 3.* set to .*'epochs': 5.*Remove the folder"):
        common.Runs(path, {**settings, "epochs": 5})


def test_settings_are_kept_before_the_first_training_ends(common, tmp_path):
    common.Runs(tmp_path / "runs.json", {"epochs": 3})
    with pytest.raises(SystemExit, match="Remove the folder"):
        common.Runs(tmp_path / "runs.json", {"epochs": 4})
