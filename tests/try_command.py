"""Runs `keras-transformer` of the runtime's wheel where Keras is not: every kind of export, in an environment for each
extra that runs them. The answers have to be Python's. See `make dist`.

python tests/try_command.py dist/keras_transformer_runtime-*.whl [litert | onnx | saved_model ...]
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import keras
import keras_hub
import numpy as np
import tokenizers

import keras_transformer as kt

# The extras of each environment. TensorFlow asks for Keras and does without: it is taken out.
EXTRAS = {"litert": "litert", "onnx": "onnx", "saved_model": "tensorflow,text"}
SIZES = {"num_layers": 1, "dim": 20, "num_heads": 4, "intermediate_dim": 13}
TEXTS = ["the cat", "a dog and the cat", "다람쥐", "dog the"]
ROWS = [[5, 9, 22, 4], [11, 6], [8], [7, 8, 9, 10]]
CORPUS = [*TEXTS, "the cat sat", "a cat and a dog", "다람쥐 헌 쳇바퀴에"] * 3
BATCH = {"batch_size": len(ROWS)}


def main(wheel: Path, names: list[str]) -> None:
    """Try the wheel with each of the extras, unless some are given."""
    for name in names or EXTRAS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            cases = list(CASES[name](Path(folder)))
            command = installed(wheel, EXTRAS[name], Path(folder))
            for case in cases:
                check(command, **case)
        print(f"{name}: {len(cases)} exports answer without Keras ({time.monotonic() - start:.0f} s)", flush=True)


def installed(wheel: Path, extras: str, folder: Path) -> Path:
    """The command in a new environment that has the wheel with these extras, and no Keras."""
    venv.create(folder / "environment", with_pip=True)
    scripts = folder / "environment" / "bin"

    def pip(*arguments):
        subprocess.run([scripts / "pip", *arguments, "--quiet", "--disable-pip-version-check"], check=True)

    pip("install", f"{wheel.resolve()}[{extras}]")
    if extras == "litert":  # what a .tflite file needs where a SentencePiece tokenizer stands beside the graph
        pip("install", "sentencepiece")
    pip("uninstall", "--yes", "keras")
    tried = subprocess.run([scripts / "python", "-c", "import keras"], capture_output=True, cwd=folder)
    if b"No module named 'keras'" not in tried.stderr:
        raise SystemExit("Keras is in the environment that is to be without.")
    return scripts / "keras-transformer"


# What is compared


def check(
    command: Path, path: Path, lines: list[str], expected: list[dict], options: tuple = (), streams: bool = False
):
    """Raise AssertionError unless the command answers as Python does, whole and streamed, and tells of the export."""

    def call(name, *arguments, given=""):
        arguments = [str(command), name, str(path), *map(str, arguments)]
        inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "KERAS_BACKEND")}
        done = subprocess.run(arguments, input=given, capture_output=True, text=True, cwd=path.parent, env=inherited)
        if done.returncode:
            raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    given = "".join(f"{line}\n" for line in lines)
    found = [json.loads(line) for line in call("run", "--json", *options, given=given).splitlines()]
    assert [x.pop("line") for x in found] == [*range(1, len(lines) + 1)]
    for line, record, right in zip(lines, found, expected, strict=True):
        assert set(record) == set(right), f"{path.name}, {line!r}: {set(record)}, not {set(right)}"
        for key, value in right.items():
            about = key in ("scores", "outputs")
            same = value is None or (_close(record[key], value) if about else record[key] == value)
            assert same, f"{path.name}, {line!r}: {key} is {record[key]}, in Python {value}"
    whole = call("run", *options, given=given)
    if "texts" in expected[0]:
        escaped = [x["texts"][0].replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for x in expected]
        assert whole == "".join(f"{text}\n" for text in escaped), f"{path.name} writes {whole!r}, not {escaped}"
    if streams:
        assert call("run", "--stream", *options, given=given) == whole, f"{path.name} streams something else"
    described = json.loads(call("describe", "--json"))
    assert all(x["installed"] for x in described["needs"]), described["needs"]
    timed = json.loads(call("benchmark", "--json", "--calls", 1, "--batch-size", len(lines), "--length", 3))
    assert timed["sizes"][0]["rows"] == len(lines)
    print(f"  {path.name}: {described['description']['kind']}, {len(lines)} lines", flush=True)


def _close(found, right) -> bool:
    if isinstance(right, dict):
        return set(found) == set(right) and all(_close(found[name], x) for name, x in right.items())
    return np.shape(found) == np.shape(right) and np.allclose(found, right, rtol=1e-3, atol=1e-4)


def of_generator(generator: kt.Generator, inputs, seed: int | None = None) -> list[dict]:
    """What `--json` has to have of each row."""
    answer = generator(inputs, seed=seed)
    found = []
    for row, lengths in enumerate(np.asarray(answer["lengths"]).tolist()):
        tokens = [x[:n] for x, n in zip(np.asarray(answer["tokens"])[row].tolist(), lengths, strict=True)]
        record = {"tokens": tokens, "lengths": lengths, "scores": np.asarray(answer["scores"])[row].tolist()}
        found.append({**record, "texts": list(answer["texts"][row])} if "texts" in answer else record)
    return found


def of_model(model: keras.Model, rows: list, name: str) -> list[dict]:
    """The same of a plain model of one input."""
    return [{"outputs": {name: np.asarray(model(np.array([row])))[0].tolist()}} for row in rows]


# What is exported


def rough(model: keras.Model) -> keras.Model:
    """Random weights that make a model say many things."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            width = weight.shape[0 if "kernel" in weight.path else 1]
            weight.assign(random.normal(size=weight.shape) * 2 / width**0.5)
    return model


def generator_of(source: int | None = None, target: int = 29, **options) -> kt.Generator:
    """Of a language model, or, with the size of a source's vocabulary, of an encoder-decoder."""
    model = (
        kt.models.language_model(target, **SIZES) if source is None else kt.models.transformer(source, target, **SIZES)
    )
    return kt.Generator(
        rough(model), **{"start_token": 2, "end_token": 3, "max_length": 12, "jit_compile": False, **options}
    )


def of_texts(source, target, **options) -> kt.Generator:
    """An encoder-decoder from texts to texts; a language model, where there is no source tokenizer."""
    options |= {"source_tokenizer": source, "target_tokenizer": target, "max_length": 40}
    return generator_of(source and source.vocabulary_size, target.vocabulary_size, **options)


def classifier(size: int = 29) -> keras.Model:
    """A plain model of ids."""
    return rough(kt.models.encoder_classifier(size, 3, **SIZES))


def of_features() -> keras.Model:
    """A plain model of two inputs of numbers, one of them of any length."""
    series, scale = keras.Input((None, 2), name="series"), keras.Input((1,), name="scale")
    x = kt.EncoderLayer(num_heads=2, intermediate_dim=5)(keras.layers.Dense(4)(series))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return rough(keras.Model([series, scale], keras.layers.Dense(2, name="forecast")(x * scale)))


def byte_pairs() -> kt.text.PretrainedTokenizer:
    """A tokenizer as checkpoints have it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    roles = ("pad_token", "unk_token", "bos_token", "eos_token")
    return kt.text.PretrainedTokenizer(tokenizer.to_str(), named_tokens=dict(zip(roles, special, strict=True)))


def exported(export, subject, path: Path, **options) -> Path:
    """The path, when the export is there; what is printed of it is of no use here."""
    with contextlib.redirect_stdout(io.StringIO()):
        export(subject, path, verify=False, **options)
    return path


def lines_of(rows: list[list[int]]) -> list[str]:
    """Rows of ids as lines."""
    return [" ".join(map(str, row)) for row in rows]


def features() -> tuple[list[str], list[dict]]:
    """Lines for the model of features, and its answers."""
    random = np.random.default_rng(1)
    values = [{"series": random.normal(size=(5, 2)).tolist(), "scale": [n / 2]} for n in range(3)]
    answers = []
    for value in values:
        output = FEATURES([np.array([value["series"]], "float32"), np.array([value["scale"]], "float32")])
        answers.append({"outputs": {"forecast": np.asarray(output)[0].tolist()}})
    return [json.dumps(value) for value in values], answers


FEATURES = of_features()
BYTES = kt.text.ByteTokenizer()
CHARACTERS = kt.text.CharacterTokenizer.train(CORPUS, add_end=True)
PIECES = kt.text.SentencePieceTokenizer.train(CORPUS, 29, character_coverage=1.0)
DRAWN = {"strategy": kt.Sampling(temperature=2.0, seed=3)}


def plain(export, folder: Path, suffix: str = "", **options):
    """Cases of plain models."""
    model = classifier()
    rows = [row + [7] * (4 - len(row)) for row in ROWS]
    path = exported(export, model, folder / f"classifier{suffix}", **options)
    yield {"path": path, "lines": lines_of(rows), "expected": of_model(model, rows, "classes")}
    lines, expected = features()
    path = exported(export, FEATURES, folder / f"features{suffix}", **options)
    yield {"path": path, "lines": lines, "expected": expected}


def static(export, folder: Path, suffix: str, streams: bool, **options):
    """Cases of generators whose exports have static shapes."""

    def case(name, generator, lines, inputs, length, **more):
        path = exported(export, generator, folder / f"{name}{suffix}", source_length=length, **BATCH, **options)
        return {"path": path, "lines": lines, "expected": of_generator(generator, inputs), **more}

    streaming = {"streams": streams}
    yield case("ids", generator_of(23), lines_of(ROWS), ROWS, 4, **streaming)
    yield case("prompts", generator_of(), lines_of(ROWS), ROWS, 4, **streaming)
    yield case("beams", generator_of(23, strategy=kt.BeamSearch(3, num_return=2)), lines_of(ROWS), ROWS, 4)
    yield case("drawn", generator_of(**DRAWN), lines_of(ROWS), ROWS, 4, **streaming)
    if export is kt.export.onnx:  # it has no tokenizers
        return
    yield case("bytes", of_texts(None, BYTES, **DRAWN), TEXTS, TEXTS, 24, **streaming)
    yield case("characters", of_texts(CHARACTERS, BYTES), TEXTS, TEXTS, 24, **streaming)
    yield case("pieces", of_texts(PIECES, PIECES), TEXTS, TEXTS, 24, **streaming)


def litert(folder: Path):
    """Cases of .tflite files: plain models, loops whole and in steps, and one of small numbers; and of bundles."""
    yield from plain(kt.export.litert, folder, ".tflite", source_length=5)
    yield from static(kt.export.litert, folder, "_whole.tflite", False)
    yield from static(kt.export.litert, folder, "_step.tflite", True, layout="step")
    for name, drawn in {"bundle.litertlm": {}, "drawn.litertlm": DRAWN}.items():
        generator = of_texts(None, BYTES, **drawn)
        path = exported(kt.export.litertlm, generator, folder / name)
        seeds = range(3, 3 + len(TEXTS))  # a bundle takes one row at a time, so each line is a batch
        expected = [
            of_generator(generator, [text], seed if drawn else None)[0] for text, seed in zip(TEXTS, seeds, strict=True)
        ]
        # Its scores are those among what may be generated, without padding, and so a little higher.
        expected = [{**record, "scores": None} for record in expected]
        yield {"path": path, "lines": TEXTS, "expected": expected, "streams": True}
    generator = generator_of(23)
    path = exported(kt.export.litert, generator, folder / "int8.tflite", source_length=4, quantize="int8", **BATCH)
    runner, expected = kt.export.load(path), []  # rounded weights say other things than the model's own
    answers = runner(ROWS)
    for row in range(len(ROWS)):
        lengths = answers["lengths"][row].tolist()
        tokens = [answers["tokens"][row, 0, : lengths[0]].tolist()]
        expected.append({"tokens": tokens, "lengths": lengths, "scores": answers["scores"][row].tolist()})
    yield {"path": path, "lines": lines_of(ROWS), "expected": expected}


def onnx(folder: Path):
    """Cases of ONNX: a file of a plain model, and folders of steps."""
    yield from plain(kt.export.onnx, folder, ".onnx")
    yield from static(kt.export.onnx, folder, "_steps", True)


def saved_model(folder: Path):
    """Cases of SavedModels, with tokenizers in the graph, outside, and in both."""
    yield from plain(kt.export.saved_model, folder)

    def case(name, generator, lines, inputs, streams=True, seed=None, **options):
        path = exported(kt.export.saved_model, generator, folder / name, streaming=streams)
        return {
            "path": path,
            "lines": lines,
            "expected": of_generator(generator, inputs, seed),
            "streams": streams,
            **options,
        }

    yield case("ids", generator_of(23), lines_of(ROWS), ROWS)
    yield case("prompts", generator_of(), lines_of(ROWS), ROWS)
    yield case("beams", generator_of(23, strategy=kt.BeamSearch(3, num_return=2)), lines_of(ROWS), ROWS, False)
    yield case("drawn", generator_of(**DRAWN), lines_of(ROWS), ROWS, seed=8, options=("--seed", 8))
    yield case("bytes", of_texts(None, BYTES, **DRAWN), TEXTS, TEXTS)
    yield case("characters", of_texts(CHARACTERS, BYTES), TEXTS, TEXTS)
    yield case("pieces", of_texts(PIECES, PIECES), TEXTS, TEXTS)
    words = kt.text.WordPieceTokenizer.train(CORPUS, 40)
    yield case("words", of_texts(words, words), TEXTS, TEXTS, False)
    yield case("words_to_bytes", of_texts(words, BYTES), TEXTS, TEXTS)
    pairs = byte_pairs()
    yield case("byte_pairs", of_texts(None, pairs), TEXTS, TEXTS, False)
    trained = kt.text.PretrainedSentencePieceTokenizer(
        PIECES.model,
        PIECES.get_vocabulary(),
        named_tokens={"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        end=["</s>"],
    )
    yield case("checkpoint_pieces", of_texts(trained, trained), TEXTS, TEXTS, False)
    theirs = keras_hub.tokenizers.ByteTokenizer(lowercase=False)
    generator = generator_of(theirs.vocabulary_size(), max_length=40)
    path = exported(kt.export.saved_model, generator, folder / "keras_hub", source_tokenizer=theirs)
    rows = [np.asarray(theirs(text)).tolist() for text in TEXTS]
    yield {"path": path, "lines": TEXTS, "expected": of_generator(generator, rows)}
    vectorized = keras.layers.TextVectorization(vocabulary=["a", "b", "c"])
    texts = ["a b", "c", "b a c a"]
    for name, tokenizer in {"words_classifier": words, "vectorized_classifier": vectorized}.items():
        model = classifier(40)
        path = exported(kt.export.saved_model, model, folder / name, source_tokenizer=tokenizer)
        rows = [np.asarray(tokenizer([text]))[0].tolist() for text in texts]
        yield {"path": path, "lines": texts, "expected": of_model(model, rows, "classes")}


CASES = {"litert": litert, "onnx": onnx, "saved_model": saved_model}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
