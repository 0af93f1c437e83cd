"""docs/migrate: with their weights copied, our layers give their numbers."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from .pages import run_page

pytestmark = pytest.mark.tensorflow
OPENNMT = Path(__file__).with_name("opennmt")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function of the name of a page that runs it in an empty folder and gives the names that it leaves."""
    monkeypatch.chdir(tmp_path)
    return lambda name: run_page(f"docs/migrate/{name}.md")


def test_keras(run, assert_close):
    names = run("keras")
    mask = names["mask"]
    assert_close(np.array(names["found"])[mask], np.array(names["expected"])[mask])
    for ours, theirs in (("found_crossed", "crossed"), ("scores", "their_scores"), ("found_block", "expected_block")):
        assert_close(names[ours], names[theirs])


def test_keras_hub(run, assert_close):
    pytest.importorskip("keras_hub")
    names = run("keras_hub")
    pairs = names["pairs"]
    assert len(pairs) == 5
    for theirs, ours in pairs.values():
        assert_close(ours, theirs)
    assert names["answers"]["ours, greedy"] == names["answers"]["theirs, greedy"]
    assert names["answers"]["ours, beams"] == names["answers"]["theirs, beams"]


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")  # theirs, which is handed masks
def test_tensorflow_tutorial(run, assert_close):
    names = run("tensorflow_tutorial")
    real = names["target"] > 0
    assert_close(np.array(names["ours_logits"])[real], np.array(names["their_logits"])[real])
    assert names["written"] == names["their_tokens"]


def test_hugging_face(run, assert_close):
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    names = run("hugging_face")
    assert_close(names["logits"], names["expected"])
    assert names["tokens"] == names["expected_tokens"]
    assert_close(names["classes"], names["expected_classes"])


def test_opennmt(run, tmp_path, assert_close):
    (tmp_path / "run").mkdir()
    for path in OPENNMT.glob("ckpt.*"):
        shutil.copy(path, tmp_path / "run" / f"ckpt-5000{path.suffix}")
    names = run("opennmt")
    with np.load(OPENNMT / "answers.npz") as theirs:
        source, target = theirs["source"], theirs["target"]
        logits = np.array(names["model"]([source, target]))
        assert_close(logits[target > 0], theirs["logits"][target > 0])
        written = names["generator"](source)
        vocabulary = (OPENNMT / "target.vocab").read_text().split() + ["<unk>"]
        texts = [" ".join(vocabulary[i] for i in row[1:]) for row in written["tokens"][:, 0]]
        assert texts == theirs["greedy"].tolist() and len({*" ".join(texts).split()}) > 2
        assert_close(written["scores"], theirs["log_probs"], 1e-4)
