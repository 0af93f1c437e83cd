"""The script that fine-tunes a sentence encoder: each way learns, and what it exports takes texts."""

import gzip
import importlib.util
import json

import numpy as np
import pytest

from ..pretrained.checkpoints import KINDS
from ..pretrained.test_sentences import save_encoder, save_modules
from .scripts import EXAMPLES, run_script

GOOD, BAD = ["brown", "fox", "lazy"], ["quick", "dog", "think"]


@pytest.mark.slow
@pytest.mark.once
def test_each_way_learns_words(tmp_path):
    folder = tmp_path / "encoder"
    save_encoder(folder, vocab_size=311)
    save_modules(folder, {"word_embedding_dimension": 44, "pooling_mode_mean_tokens": True}, normalize=True)
    KINDS["wordpiece"]().save(str(folder / "tokenizer.json"))
    random = np.random.default_rng(0)
    for part, count in (("train", 512), ("dev", 64), ("test", 96)):
        labels = random.integers(0, 2, count)
        lines = [f"{label} the {random.choice((BAD, GOOD)[label])} jumps over 2024\n" for label in labels]
        with gzip.open(tmp_path / f"sst2.{part}.gz", "wt", encoding="utf-8") as file:
            file.writelines(lines)
    arguments = [
        "--checkpoint",
        "encoder",
        "--data",
        ".",
        "--output",
        "figures.json",
        "--rate",
        "0.01",
        "--epochs",
        "4",
    ]
    for way, more in (
        ("full", ["--seeds", "0", "1"]),
        ("lora", ["--momentum", "0.5", "--export", "classifier"]),
        ("scratch", []),
    ):
        run_script("fine_tune.py", tmp_path, "--way", way, *arguments, *more)
    figures = json.loads((tmp_path / "figures.json").read_text())
    for way, seeds in (("full", [0, 1]), ("lora", [0]), ("scratch", [0])):
        assert [run["seed"] for run in figures[way]["runs"]] == seeds
        assert all(run["test_accuracy"] > 0.9 for run in figures[way]["runs"]), way
    run = figures["lora"]["runs"][0]
    assert run["trained_share"] < 0.5 and run["merged_matrices"] == 8
    assert (tmp_path / "classifier" / "saved_model.pb").exists()


def test_parts_of_korean_reviews(tmp_path):
    spec = importlib.util.spec_from_file_location("fine_tune", EXAMPLES / "fine_tune.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for part, count in (("train", 5003), ("test", 2)):
        lines = ["id\tdocument\tlabel\n", *(f"{i}\t영화 {i}\t{i % 2}\n" for i in range(count))]
        with gzip.open(tmp_path / f"ratings_{part}.txt.gz", "wt", encoding="utf-8") as file:
            file.writelines(lines)
    texts, labels = script.read_nsmc(tmp_path, "train")
    assert texts == ("영화 5000", "영화 5001", "영화 5002") and labels == ("0", "1", "0")
    assert len(script.read_nsmc(tmp_path, "dev")[0]) == 5000
    assert script.read_nsmc(tmp_path, "test") == (("영화 0", "영화 1"), ("0", "1"))
    with pytest.raises(SystemExit, match="There is no sst2.dev in"):
        script.read_sst2(tmp_path, "dev")
