"""The script that translates Korean: its parts, its scores, and a run."""

import gzip
import importlib
import json

import numpy as np
import pytest
import sacrebleu

from .scripts import EXAMPLES, run_script

WORDS = {"오늘": "today", "내일": "tomorrow", "비가": "rain", "친구": "friend", "학교": "school", "커피": "coffee"}


def sentences(count, seed):
    for i in range(count):  # from 83 on, English sentences come again with other Korean ones
        words = np.random.default_rng([seed, i % 83]).choice(list(WORDS), 3)
        yield " ".join([*words, str(i % 101)]), " ".join(["The", *map(WORDS.get, words), f"{i % 83}."])


def write_all(folder):
    def write(name, lines):
        with gzip.open(folder / f"{name}.gz", "wt", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    write("kor-eng.tsv", [f"{english}\t{korean}\tCC-BY 2.0 (France)" for korean, english in sentences(120, 0)])
    for seed, name in enumerate(("jhe-koen-dev", "korean-english-park.dev"), 1):
        korean, english = zip(*sentences(20, seed), strict=True)
        write(f"{name}.ko", [*korean, ""])
        write(f"{name}.en", [*english, "no Korean"])


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("korean_english")


def test_no_english_sentence_is_in_two_parts(script, tmp_path):
    write_all(tmp_path)
    tatoeba, further = script.read(tmp_path)
    assert tatoeba == list(sentences(120, 0))
    assert further == [*sentences(20, 1), *sentences(20, 2)]
    parts = script.split(tatoeba, further + tatoeba[:50])
    english = {part: {pair[1] for pair in found} for part, found in parts.items()}
    few = len({pair[1] for pair in tatoeba}) // 10
    assert len(english["validation"]) == len(english["test"]) == few
    sides = {part: {sentence for pair in found for sentence in pair} for part, found in parts.items()}
    assert not sides["train"] & (sides["validation"] | sides["test"])
    assert not english["validation"] & english["test"]
    held = parts["validation"] + parts["test"]
    assert set(held) <= set(tatoeba) and len(held) == sum(
        pair[1] in english["validation"] | english["test"] for pair in tatoeba
    )
    assert len(parts["train"]) > 100
    assert script.split(tatoeba, further + tatoeba[:50]) == parts


def test_scores(script):
    pairs = [("가", "Go."), ("와", "Come here now, please."), ("가", "Go away from here.")]
    found = script.judge(["Go away from here.", "Come here, please.", "Go away from here."], pairs)
    columns = [
        ["Go.", "Come here now, please.", "Go."],
        ["Go away from here.", "Come here now, please.", "Go away from here."],
    ]
    given = ["Go away from here.", "Come here, please.", "Go away from here."]
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(given, columns).score)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(given, columns).score)
    assert found["exact"] == pytest.approx(2 / 3)
    by_length = script.by_length(["Go.", "Come here."], {"test": [("가" * 8, "Go."), ("나" * 17, "Come on.")]})
    assert [length for length, _ in by_length] == [8, 24] and by_length[0][1] == pytest.approx(100)


@pytest.mark.slow
@pytest.mark.once
def test_a_run(tmp_path):
    write_all(tmp_path)
    path = tmp_path / "out" / "examples" / "results" / "korean_english.json"
    arguments = ["--data", ".", "--quick", "--output", "out", "--seeds", "0"]
    run_script("korean_english.py", tmp_path, *arguments)
    before = json.loads(path.read_text())
    path.unlink()
    run_script("korean_english.py", tmp_path, *arguments)
    figures = json.loads(path.read_text())
    assert figures == before  # minutes and all: nothing was trained again
    assert figures["quick"] and list(figures["runs"]) == ["pieces", "bytes"]
    for way, runs in figures["runs"].items():
        assert figures[f"chrf_{way}"] == runs["0"]["chrf"] and len(runs["0"]["shown"][0]) == 3
        assert (tmp_path / "out" / "exports" / "korean_english" / f"saved_model_{way}" / "saved_model.pb").exists()
    assert (tmp_path / "out" / "docs" / "examples" / "korean_english.png").exists()
