"""The language model's script: what it keeps is what it trained."""

import json

import keras
import pytest

import keras_transformer as kt

from .scripts import run_script

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def test_what_is_kept_writes_the_same(tmp_path):
    (tmp_path / "input.txt").write_text("To be, or not to be:\nthat is the question.\n" * 40)
    arguments = ["--data", "input.txt", "--steps", "30", "--context", "23", "--prompt", "To", "--save", "kept"]
    run_script("language_model.py", tmp_path, *arguments, "--results", "results.json")
    ((name, figures),) = json.loads((tmp_path / "results.json").read_text())["runs"].items()
    assert name == "modern, character, 30 steps, context 23"

    model = keras.saving.load_model(tmp_path / "kept" / "language_model.keras")
    tokenizer = kt.text.Tokenizer.load(tmp_path / "kept" / "language_model.json")
    strategy = kt.Sampling(temperature=0.8, top_p=0.95)
    generator = kt.Generator(
        model, max_length=23, end_token=tokenizer.end_id, strategy=strategy, target_tokenizer=tokenizer
    )
    assert generator(["To"])["texts"][0][0] == figures["sample"]
    assert len(figures["sample"]) == 23
