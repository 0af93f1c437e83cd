"""`keras-transformer`: answers as Python's, one line for one line, whatever the lines are and whoever is killed."""

import contextlib
import io
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import termios
import time

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer_runtime import command, load
from keras_transformer_runtime.command import main

from .conftest import OPTIONS, SIZES, roughen

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow
ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = [[5, 9, 22, 4], [11, 6], [8], [7, 8, 9, 10], [6, 6, 6]]
LINES = "".join(f"{' '.join(map(str, row))}\n" for row in ROWS)
TEXTS = ["a", "ab\\", "ba", "aab b", "bb", "b a", "aa"]
MODELS = ["classifier", "classifier.tflite", "classifier.onnx"]
GENERATORS = ["generator", "step.tflite"]


@pytest.fixture(scope="module")
def generator():
    """Of ids."""
    return kt.Generator(roughen(kt.models.language_model(29, **SIZES)), max_length=11, **OPTIONS)


@pytest.fixture(scope="module")
def words():
    """A tokenizer that works in a graph only."""
    pytest.importorskip("tensorflow_text")
    return kt.text.WordPieceTokenizer(["<pad>", "<unk>", "<s>", "</s>", "a", "b", "c"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generator, classifier, words):
    """Of each format a plain model, and generators, of ids. What they answer is compared here."""
    pytest.importorskip("tf2onnx")
    folder = tmp_path_factory.mktemp("command")
    kt.export.saved_model(generator, folder / "generator", verify=False)
    kt.export.litert(generator, folder / "step.tflite", source_length=4, batch_size=3, layout="step", verify=False)
    kt.export.saved_model(classifier, folder / "classifier", source_tokenizer=words, verify=False, max_source_length=9)
    kt.export.litert(classifier, folder / "classifier.tflite", source_length=7, batch_size=2, verify=False)
    kt.export.onnx(classifier, folder / "classifier.onnx", verify=False)
    return folder


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """The file of a language model that draws the characters of texts, line breaks among them."""
    tokenizer = kt.text.CharacterTokenizer("ab \n\r\\")
    model = roughen(kt.models.language_model(tokenizer.vocabulary_size, **SIZES))
    options = {**OPTIONS, "max_length": 17, "strategy": kt.Sampling(seed=4, temperature=3.0)}
    generator = kt.Generator(model, source_tokenizer=tokenizer, target_tokenizer=tokenizer, **options)
    path = tmp_path_factory.mktemp("writer") / "writer.tflite"
    kt.export.litert(generator, path, source_length=5, batch_size=3, layout="step", verify=False)
    return path


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """The file of a model that gives three ids back, so that what is lost or in another place is seen."""
    tokens = keras.Input((3,), dtype="int32", name="tokens")
    model = keras.Model(tokens, keras.layers.Rescaling(1.0, name="same")(tokens))
    path = tmp_path_factory.mktemp("echo") / "echo.tflite"
    kt.export.litert(model, path, batch_size=7, verify=False)
    return path


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def call(*arguments, lines: str | bytes = b"", terminals=()):
    """The command in this process: its exit status, and what it wrote to standard output and error."""
    given = lines.encode() if isinstance(lines, str) else lines
    files = {
        name: (Terminal if name in terminals else io.TextIOWrapper)(io.BytesIO(given), encoding="utf-8")
        for name in ("stdin", "stdout", "stderr")
    }
    for name in ("stdout", "stderr"):
        files[name].buffer.truncate(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, file in files.items():
            patch.setattr(sys, name, file)
        status = main(list(map(str, arguments)))
        for name in ("stdout", "stderr"):
            files[name].flush()
    return status, files["stdout"].buffer.getvalue().decode(), files["stderr"].buffer.getvalue().decode()


def fine(*arguments, **options) -> str:
    status, output, errors = call(*arguments, **options)
    assert status == 0 and not errors, errors
    return output


def records(output: str) -> list[dict]:
    found = [json.loads(line) for line in output.splitlines()]
    assert [x.pop("line") for x in found] == [*range(1, len(found) + 1)]
    return found


def unescaped(line: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r", "\\": "\\"}[found[1]], line)


# Answers


@pytest.mark.parametrize("name", GENERATORS)
def test_ids_of_a_generator(name, folder, generator):
    expected = generator(ROWS)
    found = records(fine("run", folder / name, "--json", lines=LINES))
    for row, record in enumerate(found):
        length = expected["lengths"][row, 0]
        assert record["tokens"] == [expected["tokens"][row, 0, :length].tolist()] and record["lengths"] == [length]
        np.testing.assert_allclose(record["scores"], expected["scores"][row], rtol=1e-4)
    plain = [" ".join(map(str, record["tokens"][0])) for record in found]
    assert fine("run", folder / name, *LINES.splitlines()).splitlines() == plain
    if name == "step.tflite":  # a row at a time
        assert fine("run", folder / name, "--stream", lines=LINES).splitlines() == plain


@pytest.mark.parametrize("name", MODELS)
def test_outputs_of_a_plain_model(name, folder, classifier):
    expected = [np.asarray(classifier(np.array([row])))[0] for row in ROWS]
    found = records(fine("run", folder / name, "--json", "--batch-size", 4, "--as", "ids", lines=LINES))
    np.testing.assert_allclose([x["outputs"]["classes"] for x in found], expected, rtol=1e-4, atol=1e-5)
    rows = "".join(f"{json.dumps(row if i % 2 else {'tokens': row})}\n" for i, row in enumerate(ROWS))
    lines = fine("run", folder / name, "--as", "json", "--batch-size", 4, lines=rows).splitlines()
    assert [list(map(float, line.split())) for line in lines] == [x["outputs"]["classes"] for x in found]


def test_texts_that_the_graph_reads(folder, classifier, words):
    expected = [np.asarray(classifier(np.asarray(words([text]))))[0] for text in ("a b", "c", "b a c a")]
    status, output, _ = call(
        "run", folder / "classifier", "--errors", folder / "errors", "--json", lines="a b\nc\nb a c a\n" + "a " * 10
    )
    *found, error = map(json.loads, output.splitlines())
    np.testing.assert_allclose([x["outputs"]["classes"] for x in found], expected, rtol=1e-4, atol=1e-5)
    assert status == 1 and error == {
        "line": 4,
        "error": "'tokens' has more ids than the 9 that this model was exported for",
    }


def test_inputs_that_are_called_text(tmp_path):
    """They are ids, not what a tokenizer makes ids of."""
    text, weight = keras.Input((2,), dtype="int32", name="text"), keras.Input((2,), name="weight")
    weighted = keras.layers.Multiply(name="product")([keras.layers.Rescaling(1.0)(text), weight])
    kt.export.saved_model(keras.Model([text, weight], weighted), tmp_path / "both", verify=False)
    line = '{"weight": [0.5, 2], "text": [3, 4]}'
    assert records(fine("run", tmp_path / "both", "--json", line)) == [{"outputs": {"product": [1.5, 8.0]}}]
    assert fine("run", tmp_path / "both", line) == "1.5 8.0\n"
    kt.export.saved_model(keras.Model(text, text + 1), tmp_path / "ids", verify=False)
    assert fine("run", tmp_path / "ids", "3 4") == "4 5\n"


def test_texts_of_a_plain_model_are_not_padded(words, tmp_path):
    """Whoever asks for batches gets them padded."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    model = keras.Model(tokens, kt.TokenEmbedding(words.vocabulary_size, 2, name="rows")(tokens))
    kt.export.saved_model(model, tmp_path / "model", source_tokenizer=words, verify=False)
    (table,) = model.get_weights()
    expected = [table[[4, 5]], table[[6]], table[[5, 4, 6]]]
    lines = "a b\nc\nb a c\n"
    for options, padded in (((), False), (("--batch-size", 3), True)):
        found = [
            x["outputs"]["rows"] for x in records(fine("run", tmp_path / "model", "--json", *options, lines=lines))
        ]
        assert [len(x) for x in found] == ([3, 3, 3] if padded else [2, 1, 3])
        for x, rows in zip(found, expected, strict=True):
            np.testing.assert_allclose(x[: len(rows)], rows, rtol=1e-6)


def test_texts_by_name(writer, folder):
    """What is one text as JSON is the same text by the name of its input."""
    for path, text in ((writer, "ba"), (folder / "classifier", "b a")):
        plain = fine("run", path, "--json", text)
        assert fine("run", path, "--json", "--as", "json", json.dumps({"tokens": text})) == plain
        assert fine("run", path, "--json", "--as", "json", json.dumps(text)) == plain


def words_of(tokenizer, path, export, *, texts, sources=True, **options):
    """An export of a generator of texts, and what it makes of these in Python."""
    sizes = (tokenizer.vocabulary_size, tokenizer.vocabulary_size)
    model = kt.models.transformer(*sizes, **SIZES) if sources else kt.models.language_model(sizes[0], **SIZES)
    tokenizers = {"source_tokenizer": tokenizer if sources else None, "target_tokenizer": tokenizer}
    generator = kt.Generator(roughen(model), **OPTIONS, **tokenizers, max_length=13)
    export(generator, path, verify=False, **options)
    return [text for (text,) in generator(texts)["texts"]]


@pytest.mark.parametrize("kind", ["whole", *(pytest.param(x, marks=pytest.mark.slow) for x in ("step", "graph"))])
@pytest.mark.parametrize("sources", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_pieces_of_words(kind, sources, tmp_path):
    """Of an encoder-decoder, or a language model."""
    pytest.importorskip("sentencepiece")
    pytest.importorskip("tensorflow_text")
    texts = ["the cat", "a dog", "다람쥐 a", "the"]
    pieces = kt.text.SentencePieceTokenizer.train(["the cat sat", "a dog and the cat", "다람쥐 헌"] * 3, 23)
    export, options = {
        "step": (kt.export.litert, {"layout": "step", "source_length": 9, "batch_size": 3}),
        "whole": (kt.export.litert, {"source_length": 9, "batch_size": 3}),
        "graph": (kt.export.saved_model, {"streaming": True}),
    }[kind]
    expected = words_of(pieces, tmp_path / "export", export, texts=texts, sources=sources, **options)
    lines = "\n".join(texts)
    assert len(set(expected)) > 1
    assert [unescaped(line) for line in fine("run", tmp_path / "export", lines=lines).splitlines()] == expected
    assert [x["texts"][0] for x in records(fine("run", tmp_path / "export", "--json", lines=lines))] == expected
    if kind != "whole":
        streamed = fine("run", tmp_path / "export", "--stream", lines=lines).splitlines()
        assert [unescaped(line) for line in streamed] == expected


@pytest.mark.slow
def test_word_pieces_in_the_graph_alone(words, tmp_path):
    """Texts go through the graph, and cannot be streamed."""
    expected = words_of(
        words, tmp_path / "export", kt.export.saved_model, texts=["a b", "c", "b a c a"], streaming=True
    )
    assert fine("run", tmp_path / "export", lines="a b\nc\nb a c a\n").splitlines() == expected
    status, _, said = call("run", tmp_path / "export", "--stream", "a b")
    assert status == 2 and "in its graph alone" in said
    (x,) = json.loads(fine("benchmark", tmp_path / "export", "--calls", 1, "--batch-size", 2, "--json"))["sizes"]
    assert x["rows"] == 2 and x["tokens"] > 0


@pytest.mark.slow
def test_a_bundle(tmp_path):
    """One row at a time, each with a seed of its own."""
    pytest.importorskip("litert_lm_builder")
    tokenizer = kt.text.ByteTokenizer()
    model = roughen(kt.models.language_model(tokenizer.vocabulary_size, **SIZES))
    options = {**OPTIONS, "target_tokenizer": tokenizer, "max_length": 24, "strategy": kt.Sampling(seed=4)}
    generator = kt.Generator(model, **options)
    path = tmp_path / "model.litertlm"
    kt.export.litertlm(generator, path, verify=False)
    texts = ["ab", "a", "b c"]
    expected = [generator([text], seed=4 + i)["texts"][0] for i, text in enumerate(texts)]
    lines = "\n".join(texts)
    assert [x["texts"] for x in records(fine("run", path, "--json", lines=lines))] == expected
    assert fine("run", path, "--stream", lines=lines) == fine("run", path, lines=lines)
    assert call("run", path, "--batch-size", 2, lines=lines)[0] == 2
    facts = json.loads(fine("benchmark", path, "--json", "--calls", 2))
    assert facts["format"] == "LiteRT-LM" and [x["rows"] for x in facts["sizes"]] == [1]
    assert facts["sizes"][0]["tokens"] > 0 and "as LiteRT-LM" in fine("describe", path)


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["encoder_decoder", "decoder_only"])
def test_steps_as_onnx(subject, request, tmp_path):
    subject = request.getfixturevalue(subject)
    strategy = kt.Sampling(seed=5)
    generator = kt.Generator(subject.model, max_length=subject.max_length, strategy=strategy, **OPTIONS)
    kt.export.onnx(generator, tmp_path / "steps", source_length=4, batch_size=2, verify=False)
    found = records(fine("run", tmp_path / "steps", "--json", lines=LINES))
    for first in range(0, len(ROWS), 2):
        expected = generator(ROWS[first : first + 2], seed=5 + first // 2)
        for row in range(len(ROWS[first : first + 2])):
            length = expected["lengths"][row, 0]
            assert found[first + row]["tokens"] == [expected["tokens"][row, 0, :length].tolist()]
    plain = [" ".join(map(str, record["tokens"][0])) for record in found]
    assert fine("run", tmp_path / "steps", "--stream", lines=LINES).splitlines() == plain
    described = json.loads(fine("describe", tmp_path / "steps", "--json"))
    assert described["format"] == "ONNX" and described["needs"][0]["package"] == "onnxruntime"


def test_texts_in_one_line_each_and_seeds(writer):
    """Each batch draws from a seed of its own; a text is what it is alone whatever breaks there are in it."""
    runner = kt.export.load(writer)
    for seed, options in ((4, ()), (17, ("--seed", 17))):
        batches = [TEXTS[start : start + 3] for start in range(0, len(TEXTS), 3)]
        expected = [text for i, batch in enumerate(batches) for (text,) in runner(batch, seed=seed + i)["texts"]]
        assert any("\n" in text for text in expected) and any("\r" in text for text in expected)
        lines = "\ufeff" + "\r\n".join(TEXTS)  # as other systems write them
        assert [x["texts"][0] for x in records(fine("run", writer, "--json", *options, lines=lines))] == expected
        output = fine("run", writer, *options, lines=lines)
        assert [unescaped(line) for line in output.removesuffix("\n").split("\n")] == expected and "\r" not in output
    for options in ((), ("--batch-size", 2), ("--batch-size", 1, "--seed", 9)):  # each draws what it draws in its batch
        whole = fine("run", writer, *options, lines="\n".join(TEXTS))
        assert fine("run", writer, "--stream", *options, lines="\n".join(TEXTS)) == whole
    output = fine("run", writer, *TEXTS, terminals=["stdout"])  # there as it comes, with its line breaks
    texts = [text for i in range(3) for (text,) in runner(TEXTS[3 * i : 3 * i + 3], seed=4 + i)["texts"]]
    assert output == "".join(text + "\n" for text in texts)
    assert call("run", writer, "--batch-size", 4, lines="a\n")[0] == 2
    assert fine("run", writer, "", "--json") and records(fine("run", writer, "--json", "--as", "json", lines='""'))


def test_what_a_line_draws_does_not_depend_on_others(writer, tmp_path):
    """Lines that cannot be answered, by themselves or when they are tried, leave the rest their random numbers."""
    whole = fine("run", writer, "--json", lines="\n".join(TEXTS)).splitlines()
    for bad in ("", "aaaaaaaaa"):
        lines = [bad if i in (1, 3, 4) else text for i, text in enumerate(TEXTS)]
        arguments = ("run", writer, "--json", "--errors", tmp_path / "errors", "--overwrite")
        found = call(*arguments, lines="\n".join(lines) + "\n")[1].splitlines()
        assert [x for i, x in enumerate(found) if i not in (1, 3, 4)] == [
            x for i, x in enumerate(whole) if i not in (1, 3, 4)
        ]


def test_ids_as_json_of_a_generator_of_texts(writer):
    text, ids = (records(fine("run", writer, "--json", *x)) for x in (("ba",), ("--as", "ids", "5 4")))
    assert text == ids


def test_inputs_by_name_and_numbers_that_json_has_not(tmp_path):
    x, y = keras.Input((2,), name="x"), keras.Input((2,), name="y")
    model = keras.Model([x, y], {"ratio": keras.ops.divide(x, y), "sum": keras.ops.sum(x, axis=1)})
    kt.export.litert(model, tmp_path / "model.tflite", verify=False)
    lines = '{"x": [1, 0], "y": [0, 0]}\n{"y": [3, -1], "x": [1, 0.1]}\n'
    found = [x["outputs"] for x in records(fine("run", tmp_path / "model.tflite", "--json", lines=lines))]
    third = float(str(np.float32(1) / np.float32(3)))
    assert found == [{"ratio": ["Infinity", "NaN"], "sum": 1.0}, {"ratio": [third, -0.1], "sum": 1.1}]
    assert [json.loads(x) for x in fine("run", tmp_path / "model.tflite", lines=lines).splitlines()] == found


def test_a_fixed_number_of_rows(tmp_path):
    tokens = keras.Input(batch_shape=(3, 2), dtype="int32", name="tokens")
    kt.export.onnx(keras.Model(tokens, kt.TokenEmbedding(11, 1)(tokens)), tmp_path / "model.onnx")
    lines = "".join(f"{i} {i}\n" for i in range(1, 8))
    output = fine("run", tmp_path / "model.onnx", lines=lines).splitlines()
    assert len(output) == len(set(output)) == 7
    assert call("run", tmp_path / "model.onnx", "--batch-size", 2, lines=lines)[0] == 2


# Lines that cannot be answered

BAD = [b"1 2 3", b"", b"4 5 6", b"\xff", b"7 8", b"x 1 2", b"1_0 1 2", b"99999999999 1 2", b"7 8 9"]
MESSAGES = {2: "empty", 4: "no UTF-8", 5: r"shape \(1, 2\)", 6: "'x'", 7: "'1_0'", 8: "32 bits"}


def test_a_line_that_cannot_be_answered_ends_it(echo, tmp_path):
    for number, message in MESSAGES.items():
        lines = b"\n".join([*[b"1 2 3"] * (number - 1), BAD[number - 1], b"4 5 6"])
        status, output, errors = call("run", echo, "--traceback" if number == 2 else "--quiet", lines=lines)
        assert status == 1 and output == "1.0 2.0 3.0\n" * (number - 1)
        assert re.search(f"line {number}: .*{message}", errors.splitlines()[-1])
        assert ("Traceback" in errors) == (number == 2) and (len(errors.splitlines()) == 1) == (number != 2)
    assert "error: text 2: " in call("run", echo, "1 2 3", "x")[2]


def test_the_other_lines_are_answered(echo, writer, tmp_path):
    errors = tmp_path / "errors"
    for batch in (1, 2, 7, 50):
        arguments = ("run", echo, "--batch-size", batch, "--errors", errors, "--overwrite")
        status, output, _ = call(*arguments, lines=b"\n".join(BAD))
        assert status == 1
        assert output == "1.0 2.0 3.0\n\n4.0 5.0 6.0\n\n\n\n\n\n7.0 8.0 9.0\n"
        noted = [json.loads(line) for line in errors.read_text().splitlines()]
        assert [x["line"] for x in noted] == list(MESSAGES)
        assert all(re.search(message, x["error"]) for x, message in zip(noted, MESSAGES.values(), strict=True))
        _, output, _ = call(*arguments, "--json", lines=b"\n".join(BAD))
        assert [x for x in map(json.loads, output.splitlines()) if "error" in x] == noted
    status, output, said = call("run", writer, lines="ab\naaaaaaaa\n")
    assert status == 1 and output.count("\n") == 1 and re.search(r"line 2: .*\(8,\).*takes \(5,\)", said)
    wrong = ["[1, 2", "3", "null", '"\\ud800"', '{"tokens": [4], "x": [4]}', "[" * 100_000]
    status, output, _ = call(
        "run", writer, "--as", "json", "--json", "--errors", errors, "--overwrite", lines="\n".join([*wrong, "[4]"])
    )
    assert status == 1 and ["error" in json.loads(x) for x in output.splitlines()] == [True] * len(wrong) + [False]


# Files


def state_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".state")


@pytest.fixture
def files(tmp_path):
    lines = [f"{i} {i * i} {-i}" if i % 11 else "x" for i in range(1, 200)]
    (tmp_path / "input").write_text("\n".join(lines))
    return {name: tmp_path / name for name in ("input", "output", "errors")}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_resumed_it_is_the_same_to_the_byte(options, echo, files):
    arguments = ["run", echo, *(x for name, path in files.items() for x in (f"--{name}", path)), "--resume", *options]
    assert call(*arguments)[:2] == (1, "")
    whole, noted = files["output"].read_bytes(), files["errors"].read_bytes()
    assert whole.count(b"\n") == 199 and noted.count(b"\n") == 18
    ends = [0, *(found.end() for found in re.finditer(b"\n", whole))]
    for cut in [0, 1, 5, *ends[10:15], ends[77] - 1, ends[77] + 1, ends[198], len(whole) - 1, len(whole)]:
        files["output"].write_bytes(whole[:cut])
        done = whole[:cut].count(b"\n")
        # The errors of the batch after this one may be there, and half of one.
        known = [line for line in noted.splitlines(keepends=True) if json.loads(line)["line"] <= done + 7]
        files["errors"].write_bytes(b"".join(known) + noted[len(b"".join(known)) :][:9])
        assert call(*arguments)[0] == 1
        assert files["output"].read_bytes() == whole and files["errors"].read_bytes() == noted


def test_a_batch_that_is_gone_on_with_draws_the_same(writer, tmp_path):
    (tmp_path / "input").write_text("\n".join(TEXTS))
    arguments = ("run", writer, "--json", "--input", tmp_path / "input", "--output", tmp_path / "output")
    fine(*arguments)
    whole = (tmp_path / "output").read_text()
    for count in range(len(TEXTS)):
        (tmp_path / "output").write_text("".join(whole.splitlines(keepends=True)[:count]))
        fine(*arguments, "--resume")
        assert (tmp_path / "output").read_text() == whole


def test_what_is_not_written_over(echo, files):
    arguments = ("run", echo, "--input", files["input"], "--output", files["output"], "--errors", files["errors"])
    files["output"].write_text("mine\n" * 200)
    for options, message in (
        ((), "--resume goes on"),
        (("--resume",), "no '" + str(files["output"]) + ".state' tells"),
    ):
        status, _, said = call(*arguments, *options)
        assert status == 2 and message in said and said.count("\n") == 1
        assert files["output"].read_text() == "mine\n" * 200 and not files["errors"].exists()
    assert sorted(x.name for x in files["output"].parent.iterdir()) == ["input", "output"]
    files["output"].write_text("mine\n" * 199 + "half")
    assert call(*arguments, "--resume")[0] == 2 and files["output"].read_text().endswith("half")
    assert call(*arguments, "--overwrite")[0] == 1 and files["output"].read_text().startswith("1.0 1.0 -1.0\n")
    for mine in (files["errors"], state_of(files["output"])):
        files["output"].unlink(missing_ok=True)
        mine.write_text("mine\n")
        for options in ((), ("--resume",)):
            assert call(*arguments, *options)[0] == 2 and mine.read_text() == "mine\n"
            assert not files["output"].exists()
        mine.unlink()
    assert call("run", echo, "--input", files["input"], "--output", files["input"], "--overwrite")[0] == 2
    assert files["input"].read_text().startswith("1 1 -1\n")


def started(*arguments, module: bool = True, login: int | None = None, **options) -> subprocess.Popen:
    """The command in a process of its own; with `login`, that terminal is the one that controls it."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = ["-m", "keras_transformer_runtime"] if module else []

    def prepare():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
        if login is not None:
            os.login_tty(login)

    arguments = [sys.executable, *command, *map(str, arguments)]
    return subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": path}, preexec_fn=prepare, **options)


def kill_when(process: subprocess.Popen, path, size: int) -> None:
    """SIGKILL as soon as the file has that size."""
    while process.poll() is None and (not path.exists() or path.stat().st_size < size):
        time.sleep(0.002)
    process.kill()
    process.wait(60)


def test_killed_and_interrupted_and_not_read(echo, tmp_path):
    """SIGKILL, SIGINT and a broken pipe, while more lines are to come."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    output = tmp_path / "output"
    process = started("run", echo, "--output", output, **pipes)
    process.stdin.write(b"1 2 3\n" * 700)
    process.stdin.flush()
    kill_when(process, output, 20)
    assert process.returncode == -signal.SIGKILL
    fine("run", echo, "--output", output, "--resume", lines="1 2 3\n" * 700)
    assert output.read_text() == "1.0 2.0 3.0\n" * 700

    process = started("run", echo, **pipes)
    process.stdin.write(b"1 2 3\n" * 20)
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(14)] == [b"1.0 2.0 3.0\n"] * 14  # two batches
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and b"Traceback" not in process.stderr.read()

    process = started("run", echo, **pipes)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"1 2 3\n" * 20)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"1 2 3\n" * 20)
        process.stdin.close()
    assert process.wait(60) == 141 and b"rror" not in process.stderr.read()


def test_what_a_run_is_not_gone_on_with(echo, writer, tmp_path):
    """Other options, another export, other lines; but the last line may be mended, and lines may be added."""
    given, output, errors = (tmp_path / name for name in ("input", "output", "errors"))
    lines = [f"{i} {i} {i}" for i in range(1, 21)]
    given.write_text("\n".join(lines[:16]) + "\nx")
    arguments = ("run", echo, "--input", given, "--output", output)
    assert call(*arguments)[0] == 1 and state_of(output).exists()  # it ended at line 17, within the third batch
    part, noted = output.read_bytes(), state_of(output).read_bytes()
    another = tmp_path / "another.tflite"
    another.write_bytes(echo.read_bytes() + b" ")

    def refused(*arguments, message):
        status, _, said = call(*arguments, "--resume")
        assert status == 2 and re.search(message, said) and said.count("\n") == 1, said
        assert output.read_bytes() == part and state_of(output).read_bytes() == noted

    refused(*arguments, "--json", message="no --json, and is to be gone on with --json: .*--overwrite")
    refused(*arguments, "--batch-size", 5, message="--batch-size 7, and is to be gone on with --batch-size 5")
    refused(*arguments, "--as", "json", message="--as ids, and is to be gone on with --as json")
    for number, edited in ((1, "1 1 2"), (16, "16 16 17")):
        given.write_text("\n".join([*lines[: number - 1], edited, *lines[number:]]))
        refused(*arguments, message=f"Line {number} of the input")
    given.write_text("\n".join(lines[:10]))
    refused(*arguments, message="has 16 lines, and the input 10")
    given.write_text("\n".join(lines))
    (tmp_path / "kept").write_bytes(echo.read_bytes())
    refused("run", another, *arguments[2:], message="was not written|another export")
    output.write_bytes(part + b"mine\n")
    part = output.read_bytes()
    refused(*arguments, message="has 17 lines, and .* tells of 16")
    part = part.removesuffix(b"mine\n")
    output.write_bytes(part)
    moved = ("run", tmp_path / "kept", *arguments[2:])  # the same export in another place
    assert fine(*moved, "--resume", "--errors", errors) == ""
    assert output.read_text() == "".join(f"{i}.0 {i}.0 {i}.0\n" for i in range(1, 21)) and not errors.read_bytes()
    given.write_text("\n".join([*lines, "x", "21 21 21"]))  # it was whole; more is added
    assert call(*arguments, "--resume", "--errors", errors)[0] == 1
    part, noted = output.read_bytes(), state_of(output).read_bytes()
    assert part.endswith(b"20.0\n\n21.0 21.0 21.0\n") and json.loads(errors.read_text())["line"] == 21
    refused(*arguments, message="in the place of 1 answers, and no --errors")
    refused(*arguments, "--errors", tmp_path / "others", message="others' does not tell of just these")
    assert call(*arguments, "--resume", "--errors", errors)[0] == 1 and output.read_bytes() == part
    assert call(*arguments, "--overwrite", "--errors", errors)[0] == 1
    assert output.read_bytes() == part and not state_of(output).exists()  # one that is whole needs none


def test_seeds_of_a_run_that_is_gone_on_with(writer, tmp_path, monkeypatch):
    """A given one is not changed; a fresh one is taken up again."""
    (tmp_path / "input").write_text("a\n" * 20)
    arguments = ("run", writer, "--input", tmp_path / "input", "--output", tmp_path / "three", "--resume")
    fine(*arguments, "--seed", 3)
    assert "with --seed 3, and is to be gone on with no --seed" in call(*arguments)[2]

    def without_seed(*arguments, **options):
        runner = load(*arguments, **options)
        runner.metadata["seed"] = None
        return runner

    monkeypatch.setattr(command, "load", without_seed)
    whole = {}
    for name in ("one", "two"):
        output = tmp_path / name
        arguments = ("run", writer, "--input", tmp_path / "input", "--output", output, "--resume")
        fine(*arguments)
        whole[name] = output.read_bytes()
        lines = whole[name].splitlines(keepends=True)
        output.write_bytes(b"".join(lines[:7]))
        fine(*arguments)
        assert output.read_bytes() == whole[name]
    assert whole["one"] != whole["two"]


def test_two_processes_do_not_write_one_output(echo, tmp_path):
    output = tmp_path / "output"
    arguments = ("run", echo, "--output", output, "--resume", "--errors", tmp_path / "errors")
    process = started(*arguments, stdin=subprocess.PIPE)
    process.stdin.write(b"1 2 3\n" * 10)
    process.stdin.flush()
    while process.poll() is None and not (output.exists() and output.stat().st_size):
        time.sleep(0.002)
    for options in ((), ("--overwrite",)):
        status, _, said = call("run", echo, "--output", output, *options, lines="4 5 6\n")
        assert status == 2 and "Another process is writing" in said
    status, _, said = call(*arguments, lines="1 2 3\n" * 20)
    assert status == 2 and "Another process is writing" in said
    others = ("run", echo, "--output", tmp_path / "another", "--errors", tmp_path / "errors", "--overwrite")
    assert call(*others, lines="x\n")[0] == 2 and not (tmp_path / "another").exists()
    process.kill()
    process.wait(60)
    process.stdin.close()
    fine(*arguments, lines="1 2 3\n" * 20)  # the lock died with it
    assert output.read_text() == "1.0 2.0 3.0\n" * 20


@pytest.mark.slow
def test_a_hundred_thousand_lines_killed_and_resumed(echo, tmp_path):
    lines = [f"{i} {i // 7} {-i}" for i in range(100_000)]
    expected = "".join(f"{i}.0 {i // 7}.0 {-i or 0}.0\n" for i in range(100_000))
    (tmp_path / "input").write_text("\n".join(lines) + "\n")
    output, arguments = tmp_path / "output", ("run", echo, "--input", tmp_path / "input", "--batch-size", 64)
    assert started(*arguments, "--output", tmp_path / "whole").wait(500) == 0
    assert (tmp_path / "whole").read_text() == expected
    kills = 0
    for part in (0.001, 0.1, 0.3, 0.31, 0.8):
        process = started(*arguments, "--output", output, "--resume")
        kill_when(process, output, int(part * len(expected)))
        kills += process.returncode == -signal.SIGKILL
        assert expected.startswith(output.read_text())
    assert kills == 5 and output.stat().st_size < len(expected)
    assert started(*arguments, "--output", output, "--resume").wait(500) == 0
    assert output.read_text() == expected


def test_progress_is_shown_where_somebody_sees_it(echo, files):
    pytest.importorskip("rich")
    files["input"].write_text("1 2 3\n" * 50)
    arguments = ("run", echo, "--input", files["input"])
    status, output, errors = call(*arguments, terminals=["stderr"])
    assert status == 0 and output == "1.0 2.0 3.0\n" * 50 and "50 lines" in errors
    for more, terminals in (((), ["stdout", "stderr"]), (("--quiet",), ["stderr"]), ((), [])):
        assert "lines" not in call(*arguments, *more, terminals=terminals)[2]


# Terminals

# A step of a loop waits until somebody has allowed it by a byte.
STEP_BY_STEP = """
import os, sys
from keras_transformer_runtime.command import script
from keras_transformer_runtime.program import Program
steps = Program.steps
def waiting(self, *arguments):
    for carry in steps(self, *arguments):
        yield carry
        assert os.read(allowed, 1)
Program.steps = waiting
allowed = int(sys.argv.pop(1))
sys.exit(script())
"""


@pytest.fixture
def terminal():
    """Both ends of a pseudo-terminal that does not echo."""
    ours, theirs = os.openpty()
    settings = termios.tcgetattr(theirs)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    yield ours, theirs
    for end in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(end)


def read_until(file: int, is_enough, seen: bytes = b"") -> bytes:
    """What comes from a terminal until it is enough."""
    while not is_enough(seen):
        assert select.select([file], [], [], 60)[0], f"{seen} and no more"
        seen += os.read(file, 4096)
    return seen


def test_tokens_are_on_the_terminal_before_the_next_one_is_made(folder, generator, terminal):
    ours, theirs = terminal
    allowed, allow = os.pipe()
    arguments = ["-c", STEP_BY_STEP, str(allowed), "run", str(folder / "step.tflite"), "5 9 22 4"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs, "pass_fds": [allowed]}
    process = started(*arguments, **streams, module=False)
    ids = [5, 9, 22, 4]
    expected = " ".join(map(str, ids)).encode()
    assert read_until(ours, lambda seen: len(seen) >= len(expected)) == expected
    steps = [int(token) for (token,) in generator.stream([ids])]
    for number, token in enumerate(steps):
        os.write(allow, b".")
        more = b" %d" % token + b"\r\n" * (number == len(steps) - 1)
        if number == len(steps) - 1:
            os.write(allow, b".")
        assert read_until(ours, lambda seen, more=more: len(seen) >= len(more)) == more
    assert process.wait(60) == 0
    for end in (allowed, allow):
        os.close(end)


def test_nothing_but_the_answer_is_on_a_terminal(folder, writer, terminal):
    """LiteRT has things to say when it begins and when it ends."""
    ours, theirs = terminal
    for path in (folder / "classifier.tflite", writer):
        process = started("run", path, "--json", "--as", "ids", "5 4", stdout=theirs, stderr=theirs)
        line = json.loads(read_until(ours, lambda seen: seen.endswith(b"\n")))
        assert process.wait(60) == 0 and line["line"] == 1
        assert not select.select([ours], [], [], 0)[0]


def test_a_line_that_is_typed_is_answered_and_control_c_ends_it(echo, terminal):
    ours, theirs = terminal
    pipe = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = started("run", echo, **pipe, login=theirs)
    for number in range(3):
        os.write(ours, b"%d 2 3\n" % number)
        line = read_until(ours, lambda seen: seen.endswith(b"\n"))
        assert line == b"%d.0 2.0 3.0\r\n" % number
    os.write(ours, b"\x03")
    assert process.wait(60) == 130


@pytest.mark.parametrize("seen_by", ["stderr", "both"])
def test_a_bar_on_a_terminal_is_not_in_what_is_written(seen_by, echo, terminal, tmp_path):
    pytest.importorskip("rich")
    ours, theirs = terminal
    (tmp_path / "input").write_text("1 2 3\n" * 100)
    arguments = ("run", echo, "--input", tmp_path / "input", "--batch-size", 1)
    stdout = subprocess.PIPE if seen_by == "stderr" else theirs
    process = started(*arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=theirs)
    if seen_by == "stderr":
        assert process.stdout.read() == b"1.0 2.0 3.0\n" * 100
        assert b"lines" in read_until(ours, lambda seen: b"lines" in seen)
    else:
        expected = b"1.0 2.0 3.0\r\n" * 100
        assert read_until(ours, lambda seen: len(seen) >= len(expected)) == expected
    assert process.wait(60) == 0


# Time


def test_what_a_benchmark_counts(folder, writer, generator, tmp_path):
    """Tokens are what a generator adds, counted here by what it streams."""
    (tmp_path / "rows").write_text(LINES)
    arguments = ("benchmark", "--input", tmp_path / "rows", "--calls", 3, "--json")
    for name, sizes in (("generator", (2, 1)), ("step.tflite", (3,))):
        facts = json.loads(fine(*arguments, folder / name, *(x for n in sizes for x in ("--batch-size", n))))
        assert [(x["rows"], x["calls"]) for x in facts["sizes"]] == [(size, 3) for size in sizes]
        for x in facts["sizes"]:
            answered = [ROWS[i % len(ROWS)] for i in range(3 * x["rows"])]
            streamed = [int(token) for row in answered for (token,) in generator.stream([row])]
            assert x["tokens"] == len(streamed)
            assert x["tokens_per_second"] / x["rows_per_second"] == pytest.approx(x["tokens"] / (3 * x["rows"]))
            assert 0 < x["least_seconds"] <= x["median_seconds"] <= x["most_seconds"]
        assert facts["inputs"] == {"made_up": False, "lines": min(len(ROWS), 3 * max(sizes)), "form": "ids"}
        assert facts["load_seconds"] > 0 and facts["first_call_seconds"] > 0
    status, _, said = call("benchmark", folder / "generator", "--input", "-", lines="5 6\nx\n")
    assert status == 1 and "line 2: " in said
    assert "no line" in call("benchmark", folder / "generator", "--input", "-")[2]
    for wrong in (("--as", "ids"), ("--input", "-", "--length", 3)):
        assert call("benchmark", writer, *wrong)[0] == 2


@pytest.mark.parametrize("name", [*MODELS, *GENERATORS])
def test_a_benchmark_of_made_up_inputs(name, folder):
    arguments = ("benchmark", folder / name, "--calls", 2, "--json")
    if name == "classifier":  # it was exported for 9
        status, _, said = call(*arguments)
        assert status == 1 and "(16,): give --length" in said and "more ids than the 9" in said
        arguments = (*arguments, "--length", 9)
    facts = json.loads(fine(*arguments))
    own = {"step.tflite": [3], "classifier.tflite": [2]}.get(name, [1, 8, 32])
    assert [x["rows"] for x in facts["sizes"]] == own and facts["format"] in ("SavedModel", "LiteRT", "ONNX")
    # Half of what it makes, or what the file takes.
    longest = {"generator": 5, "step.tflite": 4, "classifier.tflite": 7, "classifier": 9}.get(name, 16)
    assert facts["inputs"] == {"made_up": True, "shapes": {"tokens": [longest]}}
    assert all((x["tokens"] is None) == (facts["kind"] == "model") for x in facts["sizes"])
    text = fine("benchmark", folder / name, "--calls", 1, "--length", 2)
    assert text.count("\n") == 6 + len(own) and "a row of tokens (2,)" in text


# The command


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "a command is missing"),
        (("walk",), "walk"),
        (("run",), "required: EXPORT"),
        (("run", "ECHO", "--batch-size", "0"), "positive integer"),
        (("run", "ECHO", "--resume"), "--output"),
        (("run", "ECHO", "--stream"), "cannot stream"),
        (("run", "ECHO", "--stream", "--json"), "--json"),
        (("run", "ECHO", "--seed", "1"), "no random numbers"),
        (("run", "ECHO", "1 2 3", "--input", "x"), "not both"),
        (("run", "ECHO", "--resume", "--overwrite"), "not allowed with"),
    ],
)
def test_wrong_usage(arguments, message, echo):
    status, output, errors = call(*(echo if x == "ECHO" else x for x in arguments))
    assert status == 2 and not output and message in errors.splitlines()[-1]


def test_help_and_what_is_not_there(tmp_path, echo):
    for arguments in (("--help",), ("run", "--help"), ("describe", "--help"), ("--version",)):
        assert call(*arguments)[0] == 0
    for arguments in (
        ("run", tmp_path / "no"),
        ("describe", tmp_path / "no"),
        ("run", echo, "--input", tmp_path / "no"),
    ):
        status, output, errors = call(*arguments)
        assert status == 1 and not output and errors.count("\n") == 1 and "'" + str(tmp_path / "no") in errors


def test_the_whole_house_without_keras(folder, writer, bare_process, tmp_path):
    """Each format is run; before, where nothing can run it, each is described."""
    (tmp_path / "keras_transformer_runtime").symlink_to(ROOT / "keras_transformer_runtime")
    names = [*MODELS, *GENERATORS]
    data = {"paths": [str(folder / name) for name in names], "writer": str(writer), "lines": LINES.splitlines()}
    without = ["keras", "keras_transformer", "rich"]
    code = """
        import io
        from keras_transformer_runtime.command import main
        for path in data["paths"]:
            assert main(["run", path, "--as", "ids", *data["lines"]]) == 0
        assert main(["run", data["writer"], "ab", "--json"]) == 0
        assert not {"keras", "keras_transformer", "rich"} & {name for name in sys.modules if sys.modules[name]}
        """
    expected = [fine("run", folder / name, "--as", "ids", *LINES.splitlines()) for name in names]
    assert bare_process(code, data, without=without) == "".join([*expected, fine("run", writer, "ab", "--json")])
    code = """
        from keras_transformer_runtime.command import main
        for path in [*data["paths"], data["writer"]]:
            assert main(["describe", path, "--json"]) == main(["describe", path]) == 0
        assert main(["run", data["paths"][1], "5"]) == 1
        """
    without += ["tensorflow", "ai_edge_litert", "onnxruntime", "sentencepiece", "tensorflow_text"]
    output = bare_process(code, data, without=without).splitlines()
    facts = [json.loads(line) for line in output if line.startswith("{")]
    needed = [["tensorflow", "tensorflow-text"], ["ai-edge-litert"], ["onnxruntime"], ["tensorflow"]]
    assert [[x["package"] for x in fact["needs"]] for fact in facts] == [*needed, *[["ai-edge-litert"]] * 2]
    assert not any(x["installed"] for fact in facts for x in fact["needs"])
    kinds = [fact["description"]["kind"] for fact in facts]
    assert kinds == ["model"] * 3 + ["generator"] * 3
    assert sum("which is not installed: pip install" in line for line in output) == 7


def test_what_is_told_of_an_export(folder, writer):
    facts = json.loads(fine("describe", writer, "--json"))
    assert facts["format"] == "LiteRT" and facts["size"] == writer.stat().st_size
    assert facts["description"]["source_tokenizer"]["kind"] == "character" and facts["description"]["seed"] == 4
    text = fine("describe", writer)
    for part in ("a generator as LiteRT", "Sampling, up to 17 tokens, seed 4", "3 rows at a time, of up to 5 ids"):
        assert part in text
    assert "tokens int32 (any, any), ids from 0 to 28" in fine("describe", folder / "classifier.onnx")


def test_a_damaged_onnx_file_is_one_error(folder, tmp_path):
    content = (folder / "classifier.onnx").read_bytes()
    random = np.random.default_rng(0)
    for cut in [0, 1, 5, *random.integers(0, len(content), 20)]:
        (tmp_path / "cut.onnx").write_bytes(content[:cut])
        assert call("describe", tmp_path / "cut.onnx")[0] == 1
    for _ in range(50):
        (tmp_path / "random.onnx").write_bytes(random.bytes(40))
        assert call("describe", tmp_path / "random.onnx")[0] == 1


def test_the_errors_of_another_run_are_not_emptied(tmp_path):
    """An output that is not there yet has none."""
    from keras_transformer_runtime.output import Output
    from keras_transformer_runtime.resuming import Refusal

    path, errors = tmp_path / "new.txt", tmp_path / "bad.jsonl"
    for content, message in (
        ('{"line": 3, "error": "it is empty"}\n', "is not empty, and no .* tells that it is of this run"),
        ('{"line": "4"}\n', "is no file of errors that a run wrote: line 1"),
    ):
        errors.write_text(content)
        with pytest.raises(Refusal, match=message):
            Output(None, path, errors, resume=True, overwrite=False)
        assert errors.read_text() == content and not path.exists()
    errors.write_text("")
    Output(None, path, errors, resume=True, overwrite=False).close()


def test_two_that_load_at_once_leave_the_standard_error_alone():
    """What is written while an export is loaded is kept from it, and it is as it was before."""
    from concurrent.futures import ThreadPoolExecutor

    pytest.importorskip("ai_edge_litert")
    from keras_transformer_runtime.litert import _quiet

    def load(_):
        with _quiet():
            os.write(2, b"INFO: chatter\n")

    before = os.fstat(2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, range(40)))
    assert os.path.samestat(before, os.fstat(2))
