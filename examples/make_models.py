"""Trains two small models and packs their exports for a release: a translator of dates, and a language model.

    python examples/make_models.py                      20 minutes with one thread; downloads tiny Shakespeare
    python examples/make_models.py --text input.txt
    python examples/make_models.py --model language_model       one of them

Each is a folder of dist-models, with a card (README.md), and a .zip of it to attach; SHA256SUMS is of all files. What
the cards say was measured by the training that made the model. `python examples/try.py` runs them.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import keras_transformer as kt

EXAMPLES = Path(__file__).resolve().parent

SOURCE_LENGTH, ISO_LENGTH, CONTEXT = 48, 13, 256
BEGINNINGS = ["ROMEO:", "JULIET:\nO", "To be", "First Citizen:\nWe"]

RUN = """\
## Run it

```sh
pip install "keras-transformer-runtime[litert]" sentencepiece
keras-transformer run {name}.tflite "{prompt}"
```

`{name}-int8.tflite` is the same with weights of 8 bits: of {samples} samples its answer was Python's in
{agreement:.1%}, that of `{name}.tflite` in all. `{name}.keras` and `{tokenizer}` are for
`keras.saving.load_model`, where `keras_transformer` is imported. Written by keras_transformer {version}, {date}.
"""

TRANSLATOR = """\
# A translator of dates

An encoder-decoder of {weights:,} weights writes dates of 28 locales, in the forms that are usual there, as ISO 8601.

{run}
## How it was trained

By `examples/translate_dates.py`, {steps:,} steps of {batch_size} dates from 1930 to 2069, on a CPU:
{training_seconds:.0f} seconds with making the data. The dates are written from the patterns of Unicode's CLDR, which
Babel carries.

| | |
|---|---|
| right, to the character, of {tested:,} dates that are in no training example | {right:.2%} |
| the locale with the fewest right, {worst} | {worst_right:.1%} |

It knows no other dates than those, no time of the day, and answers whatever it is asked with a date.

## Licence

The weights: Apache-2.0, as the package. CLDR is under the Unicode License v3, Babel under a BSD licence; no part of
either is in the files.
"""

WRITER = """\
# A small language model

A decoder of {weights:,} weights goes on with a text as Shakespeare's plays do, character by character, {context} at
most.

{run}
## How it was trained

By `examples/language_model.py`, {steps:,} steps of 12 sequences of {context} characters of tiny Shakespeare, on a CPU,
in {training_seconds:.0f} seconds. Its loss on the last tenth of the text, which it never saw, is {validation_loss:.3f}
a character. It writes with temperature 0.8 and top-p 0.95, for instance:

```
{sample}
```

It has the look of a play, and no sense. It is made to be looked into, not to be believed.

## Licence

The weights: Apache-2.0, as the package. The plays are in the public domain; the file of them is that of
https://github.com/karpathy/char-rnn.
"""


def run(script: str, *arguments) -> None:
    """Run one of the examples, and end with it where it fails."""
    if subprocess.run([sys.executable, EXAMPLES / script, *map(str, arguments)]).returncode:
        raise SystemExit(f"{script} failed: what it says stands above. --model makes the models that are missing.")


def how_to_run(folder: Path, prompt: str, tokenizer: str, samples: list[str], report) -> str:
    """The part of a card that all models share."""
    return RUN.format(
        name=folder.name,
        prompt=prompt,
        tokenizer=tokenizer,
        samples=len(samples),
        agreement=report.agreement,
        version=kt.__version__,
        date=datetime.date.today().isoformat(),
    )


def make_translator(folder: Path, quick: bool) -> None:
    """The quickstart's model, as two .tflite files, and its card."""
    made = folder.with_name("training") / folder.name
    run("translate_dates.py", "--output", made, *(["--steps", 8] if quick else []))
    figures = json.loads((made / "translator.json").read_text())
    shutil.copy(made / "translator.keras", folder / f"{folder.name}.keras")
    shutil.copy(made / "tokenizer.model", folder)
    model = keras.saving.load_model(folder / f"{folder.name}.keras")
    source = kt.text.SentencePieceTokenizer((folder / "tokenizer.model").read_bytes())
    target = source.copy(add_start=True, add_end=True)
    generator = kt.Generator(
        model,
        start_token=target.start_id,
        end_token=target.end_id,
        max_length=ISO_LENGTH,
        source_tokenizer=source,
        target_tokenizer=target,
    )
    samples = figures.pop("samples")
    report = export(generator, folder, SOURCE_LENGTH, samples)
    about = how_to_run(folder, "Wednesday, August 16, 2023", "tokenizer.model", samples, report)
    (folder / "README.md").write_text(TRANSLATOR.format(**figures, run=about), encoding="utf-8")


def make_writer(folder: Path, quick: bool, text: Path | None) -> None:
    """The small GPT on Shakespeare, likewise."""
    made = folder.with_name("training") / folder.name
    options = ["--context", CONTEXT, "--save", made, "--results", made / "training.json"]
    run("language_model.py", *options, *(["--data", text] if text else []), *(["--steps", 8] if quick else []))
    (figures,) = json.loads((made / "training.json").read_text())["runs"].values()
    for suffix in ("keras", "json"):
        shutil.copy(made / f"language_model.{suffix}", folder / f"{folder.name}.{suffix}")
    model = keras.saving.load_model(folder / f"{folder.name}.keras")
    tokenizer = kt.text.Tokenizer.load(folder / f"{folder.name}.json")
    generator = kt.Generator(
        model,
        max_length=CONTEXT,
        end_token=tokenizer.end_id,
        strategy=kt.Sampling(temperature=0.8, top_p=0.95),
        target_tokenizer=tokenizer,
    )
    report = export(generator, folder, CONTEXT, BEGINNINGS)
    about = how_to_run(folder, "ROMEO:", f"{folder.name}.json", BEGINNINGS, report)
    (folder / "README.md").write_text(WRITER.format(**figures, context=CONTEXT, run=about), encoding="utf-8")


def export(generator: kt.Generator, folder: Path, source_length: int, samples: list[str]):
    """Write the loop in its parts, in float32 and in int8, and return the report of the latter."""
    options = {"source_length": source_length, "layout": "step", "samples": samples, "overwrite": True}
    kt.export.litert(generator, folder / f"{folder.name}.tflite", **options)
    return kt.export.litert(generator, folder / f"{folder.name}-int8.tflite", quantize="int8", **options)


def pack(folder: Path, names: list[str]) -> None:
    """A .zip of each model, and the checksums of all files, as `sha256sum --check` reads them."""
    for name in names:
        shutil.make_archive(str(folder / name), "zip", folder, name)
    files = [*folder.glob("*.zip"), *(path for name in names for path in (folder / name).iterdir())]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in sorted(files)]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Train, export, describe, pack, and try."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="file of tiny Shakespeare; default: download")
    parser.add_argument("--output", type=Path, default=EXAMPLES.parent / "dist-models")
    parser.add_argument("--model", nargs="+", choices=("date_translator", "language_model"), help="default: both")
    parser.add_argument("--quick", action="store_true", help="a few steps: models that know nothing")
    options = parser.parse_args()
    if options.text is not None and not options.text.is_file():
        parser.error(f"there is no file {options.text}; without --text it is downloaded")
    makers = {
        "date_translator": lambda folder: make_translator(folder, options.quick),
        "language_model": lambda folder: make_writer(folder, options.quick, options.text),
    }
    for name in options.model or makers:
        (options.output / name).mkdir(parents=True, exist_ok=True)
        makers[name](options.output / name)
    there = [name for name in makers if (options.output / name / "README.md").is_file()]  # the card comes last
    pack(options.output, there)
    for name in there:
        run("try.py", "--models", options.output, "--model", name)


if __name__ == "__main__":
    main()
