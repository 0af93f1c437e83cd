"""The script that fine-tunes a sentence encoder: each way learns, and what it exports takes texts."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ..pretrained.checkpoints import KINDS
from ..pretrained.test_sentences import save_encoder, save_modules

SCRIPT = Path(__file__).parents[2] / "examples" / "fine_tune.py"
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
    for way, more in (("full", []), ("lora", ["--export", "classifier"]), ("scratch", [])):
        process = subprocess.run(
            [sys.executable, str(SCRIPT), "--way", way, *arguments, *more],
            cwd=tmp_path,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert process.returncode == 0, process.stdout + process.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    for way in ("full", "lora", "scratch"):
        assert figures[way]["test_accuracy"] > 0.9, way
    assert figures["lora"]["trained_share"] < 0.5 and figures["lora"]["merged_matrices"] == 8
    assert (tmp_path / "classifier" / "saved_model.pb").exists()
