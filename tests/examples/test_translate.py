"""The translation script: from a table of sentences to files that answer."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "translate.py"
WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "seven": "sieben"}
SMALL = ["--vocabulary", "30", "--tokens", "1024", "--warm-up", "20", "--max-length", "11", "--average", "1"]


@pytest.fixture
def table(tmp_path):
    """Sentences of up to four words, and their words in the other language, backwards."""
    random = np.random.default_rng(3)
    sentences = [random.choice(list(WORDS), random.integers(1, 5)) for _ in range(4100)]
    lines = [f"{' '.join(words)}\t{' '.join(WORDS[word] for word in words[::-1])}\n" for words in sentences]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def translate(table, *arguments, **environment):
    process = subprocess.run(
        [sys.executable, str(SCRIPT), "--tsv", str(table), "--output", "translation", *SMALL, *arguments],
        cwd=table.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return process.returncode, process.stdout + process.stderr


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_table_becomes_a_translator(table, fresh_process):
    status, output = translate(table, "--epochs", "2")
    assert status == 0, output
    folder = table.parent / "translation"
    log = (folder / "log.csv").read_text().splitlines()
    assert len(log) == 3 and float(log[2].split(",")[1]) < float(log[1].split(",")[1])  # the loss
    result = json.loads((folder / "result.json").read_text())
    assert 0 <= result["test_bleu_beam"] <= 100 and len(result["epochs"]) == 2
    sources = ["two one", "three four five", "seven"]
    answers = fresh_process(
        f"""
        import json
        import keras_transformer_runtime as runtime
        files = "translation/translator", "translation/translator.tflite"
        print(json.dumps([[texts[0] for texts in runtime.load(file)({sources})["texts"]] for file in files]))
        """,
        cwd=table.parent,
    )
    saved_model, litert = json.loads(answers.splitlines()[-1])
    assert len(saved_model) == len(litert) == len(sources)
    assert all(word in WORDS.values() for text in saved_model for word in text.split()) and any(saved_model)

    status, output = translate(table, "--epochs", "2")
    assert status == 1 and "Go on with --resume" in output
    status, output = translate(table, "--epochs", "2", "--resume", "--dropout", "0.1")
    assert status == 1 and "--dropout was 0.3" in output


ON_TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false"}


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments, environment",
    [
        (["--distribute", "mirrored"], {}),
        (["--backend", "jax", "--distribute", "data"], ON_TWO_DEVICES),
        (["--backend", "jax", "--distribute", "model"], ON_TWO_DEVICES),
    ],
    ids=["mirrored", "data", "model"],
)
def test_trains_on_several_devices_and_goes_on(arguments, environment, table):
    status, output = translate(table, "--epochs", "1", *arguments, **environment)
    assert status == 0, output
    result = json.loads((table.parent / "translation" / "result.json").read_text())
    assert 0 <= result["test_bleu_beam"] <= 100 and len(result["epochs"]) == 1
    status, output = translate(
        table, "--epochs", "1", "--resume", *arguments, **environment
    )  # nothing is left to train
    assert status == 0, output
    again = json.loads((table.parent / "translation" / "result.json").read_text())
    assert again["test_bleu_beam"] == result["test_bleu_beam"] and again["epochs"] == result["epochs"]


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("distribute", ["data", "model"])
def test_two_processes_make_one_translator(distribute, table):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def run(index):
        return translate(
            *(table, "--epochs", "1", "--backend", "jax", "--distribute", distribute, "--processes"),
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(index),
            **ON_TWO_DEVICES,
        )

    with ThreadPoolExecutor(2) as pool:
        for status, output in pool.map(run, range(2)):
            assert status == 0, output
    folder = table.parent / "translation"
    assert len((folder / "log.csv").read_text().splitlines()) == 2
    assert 0 <= json.loads((folder / "result.json").read_text())["test_bleu_beam"] <= 100
    assert (folder / "translator" / "saved_model.pb").exists() and (folder / "translator.tflite").exists()
