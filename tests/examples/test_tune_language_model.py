"""The script that tunes a language model by LoRA: it learns, and what it saves is a checkpoint."""

import gzip
import json

import numpy as np
import pytest

import keras_transformer as kt

from ..pretrained.checkpoints import CHAT, KINDS
from ..pretrained.helpers import save_random
from ..pretrained.test_tokenizer import ROLES, write
from .scripts import run_script


@pytest.mark.slow
@pytest.mark.once
def test_answers_are_learned_and_the_checkpoint_comes_back(tmp_path):
    folder = tmp_path / "small"
    tokenizer = KINDS["llama3"]()
    save_random("llama", folder, vocab_size=tokenizer.get_vocab_size(), eos_token_id=tokenizer.token_to_id("</s>"))
    write(folder, tokenizer, {**ROLES, "tokenizer_class": "PreTrainedTokenizerFast"}, chat_template__jinja=CHAT)
    for part, count in (("train", 48), ("val", 8)):
        for language, text in (("en", "fox"), ("de", "quick brown")):
            with gzip.open(tmp_path / f"{part}.{language}.gz", "wt", encoding="utf-8") as file:
                file.writelines([f"{text}\n"] * count)
    arguments = ["--checkpoint", "small", "--data", ".", "--output", "figures.json", "--save", "tuned"]
    run_script("tune_language_model.py", tmp_path, *arguments, "--pairs", "48", "--epochs", "6", "--rate", "0.01")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["perplexity_after"] < 0.5 * figures["perplexity_before"]
    model = kt.pretrained.load_model(tmp_path / "tuned")
    before = kt.pretrained.load_model(folder)
    assert [v.path for v in model.weights] == [v.path for v in before.weights]
    changed = {
        a.path.rpartition("/")[2]
        for a, b in zip(model.weights, before.weights, strict=True)
        if not np.array_equal(np.array(a), np.array(b))
    }
    assert changed == {"kernel"}
