"""The script of the Korean dialogue: its parts, what it says of answers, and a run that goes on."""

import csv
import gzip
import importlib
import json

import numpy as np
import pytest

from .scripts import EXAMPLES, run_script

WORDS = "오늘 내일 날씨 커피 친구 학교 여행 음악 밥 잠 영화 책 비 바람 시간 사람".split()


def pairs(count=200):
    for i in range(count):
        words = np.random.default_rng(i % 170).choice(WORDS, 3)
        yield f"{' '.join(words)} {i % 170}", f"{words[0]}, 좋아요 {i}."  # 30 questions are asked twice


def write(folder):
    with gzip.open(folder / "ChatbotData.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["Q", "A", "label"], *([question, f" {answer} ", 0] for question, answer in pairs())])


@pytest.fixture
def dialogue(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("dialogue")


def test_no_question_is_in_two_parts(dialogue, tmp_path):
    write(tmp_path)
    read = dialogue.read(tmp_path)
    assert read == list(pairs())
    parts = dialogue.split(read)
    assert sorted(pair for part in parts.values() for pair in part) == sorted(read)
    questions = {part: {question for question, _ in found} for part, found in parts.items()}
    few = len({question for question, _ in read}) // 20
    assert len(questions["validation"]) == len(questions["test"]) == few
    assert not questions["train"] & (questions["validation"] | questions["test"])
    assert not questions["validation"] & questions["test"]
    assert dialogue.split(read) == parts


def test_what_is_said_of_answers(dialogue):
    said = dialogue.describe(["네.", "네.", "좋은 생각 이에요.", "몰라요."], {"네.", "아니요."})
    assert said == {"different": 0.75, "known": 0.5, "words": 1.5}


@pytest.mark.slow
@pytest.mark.once
def test_a_run(tmp_path):
    write(tmp_path)
    path = tmp_path / "out" / "examples" / "results" / "dialogue.json"
    arguments = ["--data", ".", "--quick", "--output", "out", "--seeds"]
    run_script("dialogue.py", tmp_path, *arguments, "0")
    before = json.loads(path.read_text())["runs"]
    run_script("dialogue.py", tmp_path, *arguments, "0", "1")
    figures = json.loads(path.read_text())
    assert figures["quick"] and list(figures["runs"]) == ["0", "1"]
    assert figures["runs"]["0"] == before["0"]  # minutes and all: it was not trained again
    assert figures["perplexity"] == pytest.approx(np.mean([run["test"] for run in figures["runs"].values()]))
    assert figures["answers"]["data"]["words"] == 3
    assert len(figures["shown"][0]["beams"]) == 1 and len(figures["shown"][0]["sampling"]) == 3
    assert (tmp_path / "out" / "docs" / "examples" / "dialogue.png").exists()
