"""The script that understands texts: what it reads, what it trains on, and that a run goes on."""

import gzip
import importlib
import json

import numpy as np
import pytest

from .scripts import EXAMPLES, run_script

WORDS = ["bad", "dull", "poor", "fine", "good", "great"]
FILLING = "the film has a plot that one may see with its own kind of music , and many people did so".split()
KOREAN = {"bad": "별로", "dull": "지루한", "poor": "아쉬운", "fine": "괜찮은", "good": "좋은", "great": "최고의"}


def reviews(count, seed):
    """(text, label) of sentences with one word that tells."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        word = random.integers(6)
        text = [*random.choice(FILLING, random.integers(3, 9)), WORDS[word], str(random.integers(1000))]
        yield " ".join(text), int(word > 2)


def write_all(folder):
    def write(name, lines, encoding="utf-8"):
        with gzip.open(folder / f"{name}.gz", "wb") as file:
            file.write("".join(f"{line}\n" for line in lines).encode(encoding))

    for seed, (part, count) in enumerate([("train", 60), ("dev", 20), ("test", 30)]):
        write(f"sst2.{part}", [f"{label} {text}" for text, label in reviews(count, seed)])
    write("subj.objective", [text for text, _ in reviews(11, 7)])
    for seed, (part, count) in enumerate([("train", 60), ("test", 20)]):
        lines = [f"{('HUM', 'NUM')[label]}:x Où {text} ?" for text, label in reviews(count, seed)]
        write(f"TREC.{part}", [*lines, "ABBR:exp What is N\x85A ?"], "latin-1")
        rows = [
            f"{i}\t{KOREAN[text.split()[-2]]} 영화 {text}\t{label}"
            for i, (text, label) in enumerate(reviews(count, seed))
        ]
        write(f"nsmc_rebuilt_{part}.tsv", ["id\tdocument\tlabel", *rows])


@pytest.fixture
def texts(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("classified_texts")


def test_what_is_read(texts, tmp_path):
    write_all(tmp_path)
    data = texts.read(tmp_path, "sst2")
    assert [data["train"], data["validation"], data["test"]] == [
        list(reviews(n, i)) for i, n in enumerate((60, 20, 30))
    ]
    assert data["raw"] == [text for text, _ in reviews(60, 0)] + [text for text, _ in reviews(11, 7)]

    data = texts.read(tmp_path, "trec")
    assert data["test"] == [
        *((f"Où {text} ?", (3, 5)[label]) for text, label in reviews(20, 1)),
        ("What is N\x85A ?", 0),
    ]
    assert (len(data["train"]), len(data["validation"])) == (55, 6)
    both = sorted(data["train"] + data["validation"])
    assert both == sorted(
        [*((f"Où {text} ?", (3, 5)[label]) for text, label in reviews(60, 0)), ("What is N\x85A ?", 0)]
    )
    assert data["raw"] == [text for text, _ in data["train"]]
    assert texts.read(tmp_path, "trec") == data

    data = texts.read(tmp_path, "nsmc")
    assert (len(data["train"]), len(data["validation"]), len(data["test"])) == (54, 6, 20)
    text, label = next(reviews(1, 1))
    assert data["test"][0] == (f"{KOREAN[text.split()[-2]]} 영화 {text}", label)


def test_batches_of_texts(texts):
    from keras_transformer.text import ByteTokenizer

    examples, tokenizer = list(reviews(41, 3)), ByteTokenizer(max_length=64)
    examples.append(("", 1))
    for seed in (None, 2):
        found = []
        for ids, labels in texts.batches(examples, tokenizer, 3, 4, seed):
            assert ids.shape[1] in texts.LENGTHS and len(ids) <= 4 and labels.shape[1] == 3
            found += zip(tokenizer.detokenize(ids).numpy(), labels.numpy().argmax(-1).tolist(), strict=True)
        assert sorted(found) == sorted((text.encode()[:64], label) for text, label in examples)


@pytest.mark.slow
@pytest.mark.once
def test_a_run_and_what_it_need_not_do_again(tmp_path):
    write_all(tmp_path)
    arguments = ["--data", ".", "--quick", "--output", "out", "--tasks", "trec", "--seeds", "1"]
    run_script("understanding.py", tmp_path, *arguments)
    path = tmp_path / "out" / "examples" / "results" / "understanding.json"
    before = json.loads(path.read_text())["tasks"]
    path.unlink()
    run_script("understanding.py", tmp_path, *arguments)
    figures = json.loads(path.read_text())
    assert figures["quick"] and figures["tasks"] == before  # minutes and all: nothing was trained again
    trec = figures["tasks"]["trec"]
    for way in ("scratch", "pretrained"):
        assert list(trec[way]) == ["1"] and trec[f"{way}_mean"] == trec[way]["1"]["test"]
        assert trec[f"{way}_validation"] == trec[way]["1"]["validation"]
    assert trec["guessing"]["perplexity"] > 1 and len(trec["guessing"]["blanks"]) == 2
    assert (tmp_path / "out" / "docs" / "examples" / "understanding.png").exists()
    assert (tmp_path / "out" / "exports" / "understanding" / "trec" / "saved_model" / "saved_model.pb").exists()
