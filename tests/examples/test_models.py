"""The small models of a release: what `make models` leaves, and what `examples/try.py` does with it."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import keras_transformer as kt

from .scripts import EXAMPLES, run_script

pytestmark = pytest.mark.tensorflow
NAMES = ("date_translator", "language_model")


def ask(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "try.py"), *map(str, arguments)], capture_output=True, text=True
    )


def test_without_a_model_it_says_how_to_get_one(tmp_path):
    for name in NAMES:
        process = ask("--models", tmp_path, "--model", name)
        assert process.returncode == 1 and "Traceback" not in process.stderr
        assert "make models" in process.stderr and f"{name}.zip" in process.stderr and "/releases" in process.stderr
    assert "models:" in (EXAMPLES.parent / "Makefile").read_text(encoding="utf-8")


def test_a_model_that_is_there_answers(tmp_path):
    tokenizer = kt.text.ByteTokenizer()
    sizes = {"num_layers": 1, "dim": 8, "num_heads": 2, "intermediate_dim": 16}
    model = kt.models.transformer(tokenizer.vocabulary_size, tokenizer.vocabulary_size, **sizes)
    generator = kt.Generator(
        model,
        max_length=7,
        start_token=tokenizer.start_id,
        end_token=tokenizer.end_id,
        source_tokenizer=tokenizer,
        target_tokenizer=tokenizer,
    )
    folder = tmp_path / "date_translator"
    folder.mkdir()
    kt.export.litert(generator, folder / "date_translator.tflite", source_length=16, layout="step")
    process = ask("--models", tmp_path, "1.2.1984", "5 May")
    assert process.returncode == 0, process.stderr
    expected = [
        f"{text}  ->  {kt.export.load(folder / 'date_translator.tflite')([text])['texts'][0][0]}"
        for text in ("1.2.1984", "5 May")
    ]
    assert process.stdout == "\n".join(expected) + "\n"


def test_a_text_that_is_missing_is_told_before_anything_is_trained(tmp_path):
    command = [sys.executable, str(EXAMPLES / "make_models.py"), "--text", "none.txt", "--output", tmp_path / "models"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2 and "there is no file none.txt" in process.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_models_are_made_and_packed(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(
        "ROMEO:\nBut soft, what light through yonder window breaks?\nJULIET:\nO To be First Citizen We!\n" * 200
    )
    run_script("make_models.py", tmp_path, "--quick", "--text", str(text), "--output", str(tmp_path / "models"))
    models = tmp_path / "models"
    sums = dict(line.split("  ")[::-1] for line in (models / "SHA256SUMS").read_text().splitlines())
    for name in NAMES:
        assert f"{name}.zip" in sums and f"{name}/{name}-int8.tflite" in sums
        card = (models / name / "README.md").read_text(encoding="utf-8")
        assert "## Licence" in card and kt.__version__ in card and not re.search(r"\{\w+\}", card)
        inside = zipfile.ZipFile(models / f"{name}.zip").namelist()
        assert {f"{name}/README.md", f"{name}/{name}.tflite", f"{name}/{name}.keras"} <= set(inside)
    for path, digest in sums.items():
        assert hashlib.sha256((models / path).read_bytes()).hexdigest() == digest
    shutil.unpack_archive(models / "language_model.zip", tmp_path / "unpacked")
    answers = [
        ask("--models", tmp_path / "unpacked", "--model", "language_model", "--seed", seed).stdout for seed in (1, 1, 2)
    ]
    assert answers[0].startswith("ROMEO:") and answers[0] == answers[1] != answers[2]
