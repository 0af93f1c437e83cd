"""An exported SavedModel answers a C program what it answers Python, and survives whatever strangers send it."""

import http.server
import importlib.util
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import keras_transformer as kt

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")
pytest.importorskip("sentencepiece")
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

SERVING = pathlib.Path(__file__).resolve().parents[2] / "examples" / "serving"
OPS = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
OPS = OPS / "python" / "ops" / "_fast_sentencepiece_tokenizer.so"
WORDS = "anna bob müller 東京 сад data world hello the a of 12 7 ٣ cat dog".split()
VOCABULARY, LONGEST, LENGTH = 43, 61, 11
UNTRUSTED = {
    "empty": b"",
    "spaces": b"   \t ",
    "invalid UTF-8": b"\xff\xfe cat \xc3",
    "a character cut off": "東".encode()[:2],
    "overlong, surrogate, beyond Unicode": b"\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80",
    "NUL": b"a\x00b",
    "NUL alone": b"\x00",
    "right to left": "\u202eשלום עולם مرحبا".encode(),
    "emoji": "👩‍👩‍👧🇰🇷😀".encode(),
    "combining": ("e" + "\u0301" * 500).encode(),
    "control ids by name": b"<s> </s> <pad> <unk>",
    "carriage return": b"cat\rdog\r",
    "a megabyte of one unknown": b"\xff" * 2**20,
}
REFUSED = {"a megabyte of a": b"a" * 2**20, "one word too many": b"cat " * 300}


def sentences(count):
    randomness = random.Random(3)
    return [" ".join(randomness.choices(WORDS, k=randomness.randrange(1, 11))) for _ in range(count)]


@pytest.fixture(scope="module")
def generators():
    """A source tokenizer, a target tokenizer with other settings, and a random model searched in two ways."""
    source = kt.text.SentencePieceTokenizer.train(sentences(300), VOCABULARY, character_coverage=1.0)
    target = kt.text.SentencePieceTokenizer(source.model, add_start=True, add_end=True)
    sizes = {"num_layers": 1, "dim": 20, "num_heads": 4, "intermediate_dim": 13, "dropout": 0.0}
    model = kt.models.transformer(VOCABULARY, VOCABULARY, **sizes)
    values = np.random.default_rng(1)
    for weight in model.weights:  # large enough that different texts have different answers
        if len(weight.shape) > 1:
            inputs = weight.shape[0 if "kernel" in weight.path else 1]
            weight.assign(values.normal(size=weight.shape) * 2 / inputs**0.5)
    strategies = {"greedy": kt.Greedy(), "beam": kt.BeamSearch(3, length_penalty=0.6, num_return=2)}
    options = {"max_length": LENGTH, "end_token": target.end_id, "start_token": target.start_id}
    return source, target, {name: kt.Generator(model, strategy=x, **options) for name, x in strategies.items()}


@pytest.fixture(scope="module")
def folder(generators, tmp_path_factory):
    """Both generators, exported with tokenizers."""
    folder = tmp_path_factory.mktemp("translators")
    source, target, searches = generators
    for name, generator in searches.items():
        options = {"source_tokenizer": source, "target_tokenizer": target, "max_source_length": LONGEST}
        kt.export.saved_model(generator, folder / name, verify=False, **options)  # the tests do
    return folder


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """A function that runs the C program on lines and returns its exit status, output lines and errors."""
    if not (shutil.which("cc") and shutil.which("make")):
        pytest.skip("there is no C compiler (cc) or no make")
    build = tmp_path_factory.mktemp("build")
    command = ["make", "-s", "-C", str(SERVING), f"PYTHON={sys.executable}", f"BUILD={build}"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr

    def run(*arguments, lines=()):
        process = subprocess.run(
            [build / "serve", *map(str, arguments)],
            input=b"".join(line + b"\n" for line in lines),
            capture_output=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            timeout=120,
        )
        errors = [line for line in process.stderr.decode(errors="replace").splitlines() if line.startswith("serve: ")]
        return process.returncode, process.stdout.split(b"\n")[:-1], errors

    return run


def in_python(generators, name, texts):
    """Texts (B, N) and scores (B, N) by the generator in this process."""
    source, target, searches = generators
    answer = searches[name](source(tf.constant(texts)).numpy())
    return target.detokenize(answer["tokens"]).numpy(), np.asarray(answer["scores"])


def one_line(text):
    return text.replace(b"\n", b" ")


@pytest.mark.parametrize("batch", [64, 1])
def test_greedy_answers_equal_pythons(serve, folder, generators, batch):
    texts = [text.encode() for text in sentences(53)]
    status, answers, errors = serve("--ops", OPS, "--batch", batch, folder / "greedy", lines=texts)
    expected, _ = in_python(generators, "greedy", texts)
    assert (status, errors) == (0, [])
    assert answers == [one_line(text) for text in expected[:, 0]]
    assert len(set(answers)) > 20


def test_n_best_of_beam_search_with_scores(serve, folder, generators):
    texts = [text.encode() for text in sentences(53)]
    status, answers, errors = serve("--ops", OPS, "--n-best", 2, "--batch", 17, folder / "beam", lines=texts)
    expected, scores = in_python(generators, "beam", texts)
    assert (status, errors) == (0, [])
    numbers, found, answers = zip(*(line.split(b"\t", 2) for line in answers), strict=True)
    assert [int(number) for number in numbers] == [row for row in range(1, 54) for _ in range(2)]
    assert list(answers) == [one_line(text) for text in expected.reshape(-1)]
    np.testing.assert_allclose([float(score) for score in found], scores.reshape(-1), rtol=1e-4)


def test_untrusted_lines_are_answered_or_refused(serve, folder, generators):
    """Those refused get an empty line and an error that tells which they were, and fail no other line."""
    lines = [*UNTRUSTED.values(), *REFUSED.values(), b"cat dog"]
    status, answers, errors = serve("--ops", OPS, folder / "greedy", lines=lines)
    accepted = [*UNTRUSTED.values(), b"cat dog"]
    expected = [one_line(text) for text in in_python(generators, "greedy", accepted)[0][:, 0]]
    assert status == 1
    assert answers == [*expected[:-1], b"", b"", expected[-1]]
    refused = [f"serve: line {len(UNTRUSTED) + i}" for i in (1, 2)]
    assert [error.split(" is refused")[0] for error in errors] == refused
    assert all(f"more ids than the {LONGEST}" in error for error in errors)


def test_thousands_of_lines_and_none(serve, folder):
    status, answers, _ = serve("--ops", OPS, "--batch", 5000, folder / "greedy", lines=[b"cat dog", b""] * 2500)
    assert status == 0
    assert len(answers) == 5000 and len(set(answers)) == 2
    assert serve("--ops", OPS, folder / "greedy") == (0, [], [])


def test_untrusted_strings_in_python_without_keras(folder, generators, bare_process):
    accepted = list(UNTRUSTED.values())
    data = {
        "folder": str(folder / "greedy"),
        "ops": str(OPS),
        "accepted": [text.hex() for text in accepted],
        "refused": [text.hex() for text in REFUSED.values()],
        "expected": [text.hex() for text in in_python(generators, "greedy", accepted)[0][:, 0]],
    }
    bare_process(
        """
        import tensorflow as tf
        tf.load_op_library(data["ops"])
        answer = tf.saved_model.load(data["folder"]).signatures["serving_default"]
        texts = [bytes.fromhex(text) for text in data["accepted"]]
        together = answer(text=tf.constant(texts))["texts"][:, 0].numpy()
        assert [text.hex() for text in together] == data["expected"]
        for text in data["refused"]:
            try:
                answer(text=tf.constant([b"cat", bytes.fromhex(text)]))
            except tf.errors.InvalidArgumentError as error:
                assert "more ids than" in str(error)
            else:
                raise AssertionError("a text that is too long was answered")
        assert answer(text=tf.constant([], tf.string))["texts"].shape == (0, 1)
        """,
        data,
        without=["keras", "keras_transformer"],
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--ops", "nowhere.so", "model"], "cannot load the operations 'nowhere.so'"),
        (["nowhere"], "cannot serve 'nowhere'"),
        (["--batch", "0", "model"], "--batch takes a number"),
        (["--n-best", "few", "model"], "--n-best takes a number"),
        ([], "give one FOLDER"),
    ],
)
def test_usage_errors_say_what_is_wrong(serve, arguments, message):
    status, answers, errors = serve(*arguments)
    assert (status, answers) == (2, [])
    assert message in errors[0]


def test_models_that_do_not_answer_strings_are_refused(serve, folder, tmp_path):
    status, _, errors = serve(folder / "greedy")
    assert status == 2 and "FastSentencepieceTokenize" in errors[0]
    module = tf.Module()
    module.answer = tf.function(lambda ids: {"tokens": ids}, [tf.TensorSpec((None, None), tf.int32)])
    tf.saved_model.save(module, str(tmp_path), signatures=module.answer)
    status, _, errors = serve(tmp_path)
    assert status == 2 and "source_tokenizer" in errors[0]


def test_help(serve):
    status, lines, _ = serve("--help")
    assert status == 0 and lines[0].startswith(b"Usage: serve [options] FOLDER")


@pytest.fixture
def rest_server():
    """The address of a server that speaks TensorFlow Serving's REST, and the requests that it got."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body))
            refused = "too long" in body["instances"]
            answers = [{"texts": [text.upper(), "?"], "scores": [-0.5, -1]} for text in body["instances"]]
            self.send_response(400 if refused else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"error": "too many ids"} if refused else {"predictions": answers}).encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}", requests
        server.shutdown()


def run_client(*arguments):
    command = [sys.executable, SERVING / "client_rest.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONUTF8": "1"})


def test_rest_client(rest_server):
    url, requests = rest_server
    process = run_client("--url", url, "müller", "кот")
    assert process.stdout.split("\n") == [
        "müller\t-0.5000\tMÜLLER",
        "müller\t-1.0000\t?",
        "кот\t-0.5000\tКОТ",
        "кот\t-1.0000\t?",
        "",
    ]
    body = {"signature_name": "serving_default", "instances": ["müller", "кот"]}
    assert requests == [("/v1/models/translator:predict", body)]


def test_rest_client_tells_what_the_server_refused_and_when_there_is_none(rest_server):
    process = run_client("--url", rest_server[0], "too long")
    assert process.returncode == 1 and "answered 400" in process.stderr and "too many ids" in process.stderr
    process = run_client("--url", "http://localhost:1", "text")
    assert process.returncode == 1 and "Is the server up?" in process.stderr


@pytest.mark.parametrize("name", ["client_rest", "client_grpc"])
def test_clients_explain_themselves(name):
    process = subprocess.run([sys.executable, SERVING / f"{name}.py", "--help"], capture_output=True, text=True)
    assert process.returncode == 0 and "texts" in process.stdout
