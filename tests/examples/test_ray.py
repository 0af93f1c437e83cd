"""examples/ray on two nodes: the files of the command to the byte, whoever dies; HTTP that answers or says why not."""

import http.client
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import keras_transformer as kt
import keras_transformer_runtime
from keras_transformer_runtime.command import main

# Not `ray` itself: where it is not installed, the folder examples/ray is a package of that name.
pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: make test-ray installs the extra `ray`")
pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow

RAY = pathlib.Path(__file__).resolve().parents[2] / "examples" / "ray"
SIZES = {"num_layers": 1, "dim": 20, "num_heads": 4, "intermediate_dim": 13}
POISON = {
    3: b"\xff\xfe",
    4000: b"",
    9999: b"abcabcabc",
    15_001: b"\xef\xbb\xbfab",
}  # the last one is fine: no first line


def module(name):
    spec = importlib.util.spec_from_file_location(f"example_ray_{name}", RAY / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


measure = module("measure")


@pytest.fixture(scope="module")
def cluster():
    with measure.two_nodes() as cluster:
        yield cluster


def rough(model):
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(size=weight.shape) * 2 / weight.shape[-1] ** 0.5)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Exports of texts: `writer.tflite` draws and streams, `best.tflite` gives the two best."""
    folder = tmp_path_factory.mktemp("ray")
    tokenizer = kt.text.CharacterTokenizer("abc \n\\\ufeff")
    texts = {"source_tokenizer": tokenizer, "target_tokenizer": tokenizer, "start_token": 2, "end_token": 3}
    model = rough(kt.models.language_model(tokenizer.vocabulary_size, **SIZES))
    writer = kt.Generator(
        model, max_length=13, strategy=kt.Sampling(seed=4, temperature=3.0), jit_compile=False, **texts
    )
    kt.export.litert(writer, folder / "writer.tflite", source_length=6, batch_size=16, layout="step", verify=False)
    model = rough(kt.models.transformer(tokenizer.vocabulary_size, tokenizer.vocabulary_size, **SIZES))
    strategy = kt.BeamSearch(3, num_return=2)
    best = kt.Generator(model, max_length=7, strategy=strategy, jit_compile=False, **texts)
    kt.export.litert(best, folder / "best.tflite", source_length=6, batch_size=4, verify=False)
    random = np.random.default_rng(5)
    words = ["".join(random.choice(list("abc "), random.integers(1, 5))).encode() for _ in range(20_000)]
    lines = [POISON.get(number, word) for number, word in enumerate(words, 1)]
    (folder / "lines").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))  # a mark before the first, no end of the last
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """The files of the command."""
    return files_of(lambda *arguments: main(list(map(str, arguments))), folder, "expected")


def places(folder, name):
    return ["--input", folder / "lines", "--output", folder / name, "--errors", folder / f"{name}.jsonl", "--json"]


def files_of(run, folder, name):
    assert run("run", folder / "writer.tflite", *places(folder, name)) == 1
    return read(folder, name)


def read(folder, name):
    return (folder / name).read_bytes(), (folder / f"{name}.jsonl").read_bytes()


def started(cluster, export, *arguments):
    """lines.py on the cluster."""
    command = [sys.executable, RAY / "lines.py", export, *arguments]
    return subprocess.Popen(map(str, command), env=measure.on(cluster), stderr=subprocess.PIPE, text=True)


def ended(process, status):
    """What it said, without what Ray and LiteRT say."""
    said = process.communicate(timeout=200)[1]
    assert process.returncode == status, said
    ours = [line for line in said.splitlines() if line.startswith(("Answered by", "keras-transformer: error:"))]
    return "\n".join(ours)


# lines.py


def test_the_command_refuses_the_poisoned_lines(expected):
    """What the others are compared with is right: three lines are refused, each in its place."""
    answers, errors = expected
    assert [json.loads(line)["line"] for line in errors.splitlines()] == [3, 4000, 9999]
    records = [json.loads(line) for line in answers.splitlines()]
    assert [record["line"] for record in records] == [*range(1, 20_001)]
    assert [record["line"] for record in records if "error" in record] == [3, 4000, 9999]
    assert len({tuple(record["texts"]) for record in records if "texts" in record}) > 10_000


def test_twenty_thousand_lines_while_a_worker_is_killed(cluster, folder, expected):
    process = started(cluster, folder / "writer.tflite", *places(folder, "killed"), "--part", 250)
    _, second = cluster.list_all_nodes()
    assert measure.kill_a_worker(second, process, folder / "killed", 5000) < 15_000
    said = ended(process, 1)
    assert said == "Answered by 3 processes on 2 machines."
    assert read(folder, "killed") == expected


def test_a_node_is_removed(folder, expected):
    with measure.two_nodes() as cluster:
        process = started(cluster, folder / "writer.tflite", *places(folder, "removed"), "--part", 250)
        _, second = cluster.list_all_nodes()
        while not measure.workers(second) or (folder / "removed").read_bytes().count(b"\n") < 2000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        cluster.remove_node(second, allow_graceful=False)
        assert (folder / "removed").read_bytes().count(b"\n") < 15_000
        assert "on 2 machines." in ended(process, 1)
    assert read(folder, "removed") == expected


def test_the_run_is_killed_and_resumed_by_either(cluster, folder, expected):
    """The process that hands out and writes; its output then ends within a batch, and within a line."""
    process = started(cluster, folder / "writer.tflite", *places(folder, "resumed"), "--part", 250)
    while not (folder / "resumed").exists() or (folder / "resumed").read_bytes().count(b"\n") < 4100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    answers, errors = read(folder, "resumed")
    assert expected[0].startswith(answers) and expected[1].startswith(errors) and len(answers) < len(expected[0])
    (folder / "resumed").write_bytes(answers[: len(answers) // 2])
    for end in ("", ".jsonl", ".state"):
        shutil.copy(folder / f"resumed{end}", folder / f"again{end}")
    ended(started(cluster, folder / "writer.tflite", *places(folder, "resumed"), "--resume"), 1)
    assert read(folder, "resumed") == expected
    assert main(["run", *map(str, [folder / "writer.tflite", *places(folder, "again"), "--resume"])]) == 1
    assert read(folder, "again") == expected


def test_without_a_file_for_errors_it_ends_at_the_first(cluster, folder, expected):
    arguments = [folder / "writer.tflite", "--input", folder / "lines", "--output", folder / "ended", "--json"]
    assert "line 3: it is no UTF-8" in ended(started(cluster, *arguments), 1)
    assert (folder / "ended").read_bytes() == b"".join(expected[0].splitlines(keepends=True)[:2])


def test_a_part_that_kills_each_worker_ends_the_run(cluster, folder):
    """Whatever does it: a line that the engine does not survive would be tried for ever."""
    process = started(cluster, folder / "writer.tflite", *places(folder, "deadly"), "--part", 20_000)
    while process.poll() is None:
        for node in cluster.list_all_nodes():
            for worker in measure.workers(node):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.05)
    assert "Ray gave up" in ended(process, 1)
    assert (folder / "deadly").read_bytes() == b""


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--seed", 1], 2, "draws no random numbers"),
        (["--output", "lines"], 2, "are the same file"),
        (["--output", "there"], 2, "'there' is there"),
        (["--output", "there", "--resume"], 2, "has 3 lines, and no"),
        (["--input", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_it_does_not_begin_with(folder, tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("lines").write_bytes(b"a\nb\n")
    pathlib.Path("there").write_bytes(b"1\n2\n3\n")
    given = [folder / "best.tflite", "--input", "lines", "--output", "output", *arguments]
    monkeypatch.setattr(sys, "argv", ["lines.py", *map(str, given)])
    assert module("lines").run() == status
    assert message in capsys.readouterr().err
    assert pathlib.Path("there").read_bytes() == b"1\n2\n3\n" and not pathlib.Path("output").exists()


@pytest.mark.parametrize("arguments", [["ab"], ["--input", "lines"], ["--output", "output"]])
def test_it_takes_files_only(folder, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("lines").write_bytes(b"a\nb\n")
    monkeypatch.setattr(sys, "argv", ["lines.py", str(folder / "best.tflite"), *arguments])
    assert module("lines").run() == 2
    assert "give --input and --output" in capsys.readouterr().err


def test_another_input_or_export_on_a_machine_is_noticed(folder, tmp_path):
    lines = module("lines")
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xef\xbb\xbfthree\nfour")
    parts = list(lines.cut(path, 0, 2))
    assert [lines.read_part(part, path) for part in parts] == [[b"one", b"two"], [b"\xef\xbb\xbfthree", b"four"]]
    assert [part["first"] for part in lines.cut(path, 3, 2)] == [4] and not list(lines.cut(path, 4, 2))
    path.write_bytes(path.read_bytes().replace(b"four", b"five"))
    assert lines.read_part(parts[0], path) == [b"one", b"two"]
    with pytest.raises(ValueError, match="another file"):
        lines.read_part(parts[1], path)
    work = {"export": str(folder / "best.tflite"), "threads": 1, "form": "text", "seed": None, "fingerprint": ""}
    with pytest.raises(ValueError, match="another export"):
        lines.loaded(work)


# serve.py


@pytest.fixture(scope="class")
def best(cluster, folder):
    """`best.tflite` is served, by a replica on each node, and loaded here."""
    options = ["--replicas", 2, "--wait", 0.02, "--longest", 10_000]
    with measure.server(cluster, folder / "best.tflite", *options):
        yield keras_transformer_runtime.load(folder / "best.tflite")


@pytest.fixture(scope="class")
def writer(cluster, folder):
    """The same of `writer.tflite`."""
    with measure.server(cluster, folder / "writer.tflite"):
        yield keras_transformer_runtime.load(folder / "writer.tflite")


def post(body, path="/", method="POST"):
    connection = http.client.HTTPConnection("127.0.0.1", measure.PORT, timeout=100)
    connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if path != "/stream" or response.status != 200 else content.decode()


def answer_of(outputs, row):
    lengths = outputs["lengths"][row].tolist()
    tokens = [ids[:length].tolist() for ids, length in zip(outputs["tokens"][row], lengths, strict=True)]
    return {"texts": list(outputs["texts"][row]), "tokens": tokens, "lengths": lengths}


def assert_answers(found, outputs, row):
    found = dict(found)
    np.testing.assert_allclose(found.pop("scores"), outputs["scores"][row], rtol=1e-4)
    assert found == answer_of(outputs, row)


def test_a_port_that_is_taken():
    serve = module("serve")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"cannot listen on 127.0.0.1, port {port}: .*Give another --port"):
            serve.check_free("127.0.0.1", port)
    serve.check_free("127.0.0.1", port)


class TestBest:
    def test_two_thousand_requests_of_eight_clients(self, best, folder):
        texts = [line.decode() for line in (folder / "lines").read_bytes().split(b"\n")[10:2010]]
        outputs = best(texts)
        assert outputs["scores"].shape == (2000, 2)
        responses = measure.ask([json.dumps({"text": text}).encode() for text in texts], 8)
        for row, (status, _, body) in enumerate(responses):
            assert status == 200
            assert_answers(body, outputs, row)
        assert 1.2 < measure.mean_batch(responses) <= 4

    def test_a_list_of_texts_of_which_some_are_bad(self, best):
        texts = ["ab", "", "abcabcabc", "c", "a\ud800"]
        status, body = post({"texts": texts})
        outputs = best(["ab", "c"])
        assert status == 400 and body["error"].startswith("text 2: it is empty")
        assert_answers(body["answers"][0], outputs, 0)
        assert_answers(body["answers"][3], outputs, 1)
        errors = [body["answers"][i]["error"] for i in (1, 2, 4)]
        assert all(
            part in error for part, error in zip(["empty", "takes (6,) at most", "no UTF-8"], errors, strict=True)
        )
        status, body = post({"texts": ["ab", "c"]})
        assert status == 200 and [x["texts"] for x in body["answers"]] == outputs["texts"] and "error" not in body
        assert_answers(post({"inputs": best.tokenize(["ab"])[0]})[1], outputs, 0)

    @pytest.mark.parametrize(
        "body, status, message",
        [
            (b"", 400, "is empty"),
            (b"{", 400, "no JSON"),
            (b"[" * 9000, 400, "no JSON"),
            (b'{"text": "\xff"}', 400, "no UTF-8"),
            (b" " * 10_001, 413, "at most 10000 bytes"),
            ([], 400, "got list"),
            ({}, 400, "got an object with []"),
            ({"text": "a", "texts": ["a"]}, 400, "got an object with ['text', 'texts']"),
            ({"text": "a", "temperature": 1}, 400, "temperature"),
            ({"text": 3}, 400, "expected a text, got 3"),
            ({"text": None}, 400, "expected a text, got null"),
            ({"text": ""}, 400, "it is empty"),
            ({"text": "abcabcabc"}, 400, "takes (6,) at most"),
            ({"text": "\ud800"}, 400, "no UTF-8"),
            ({"texts": []}, 400, "at least one text"),
            ({"texts": "ab"}, 400, "at least one text"),
            ({"texts": ["a", 5]}, 400, "expected a text, got 5"),
            ({"inputs": 5}, 400, "expected a list or an object"),
            ({"inputs": [999]}, 400, "ids from 999"),
            ({"inputs": [10**400]}, 400, "ids from"),
            ({"inputs": {"wrong": [5]}}, 400, "got ['wrong']"),
            ({"text": "a", "seed": 1}, 400, "draws no random numbers"),
            ({"text": "a", "seed": "1"}, 400, "seed"),
        ],
    )
    def test_bad_requests(self, best, body, status, message):
        found, answer = post(body)
        assert found == status and message in answer["error"] and set(answer) <= {"error", "answers"}

    def test_other_paths_and_methods(self, best):
        assert post(b"", "/elsewhere")[0] == 404
        assert post(b"", method="GET")[0] == 405
        status, body = post({"text": "a"}, "/stream")
        assert status == 400 and "cannot stream" in body["error"]


class TestWriter:
    def test_a_seed_says_what_is_drawn(self, writer):
        texts = ["ab", "c", "ba"]
        outputs = writer(texts, seed=7)
        status, body = post({"texts": texts, "seed": 7})
        assert status == 200
        for row, found in enumerate(body["answers"]):
            assert_answers(found, outputs, row)
        assert_answers(post({"text": "ba", "seed": -3})[1], writer(["ba"], seed=-3), 0)
        assert len({post({"text": "ab"})[1]["texts"][0] for _ in range(20)}) > 10  # without one, others each time

    def test_a_stream_is_the_answer_in_pieces(self, writer):
        pieces = 0
        for seed in range(20):
            status, events = post({"text": "ab", "seed": seed}, "/stream")
            *texts, end = (
                json.loads(event.partition("data: ")[2]) for event in events.removesuffix("\n\n").split("\n\n")
            )
            assert status == 200 and events.endswith("event: end\ndata: {}\n\n") and end == {}
            assert "".join(x["text"] for x in texts) == writer(["ab"], seed=seed)["texts"][0][0]
            pieces += len(texts)
        assert pieces > 60
        assert len({post({"text": "ab"}, "/stream")[1] for _ in range(20)}) > 10

    @pytest.mark.parametrize(
        "body, message",
        [
            ({"text": ""}, "one text that is not empty"),
            ({"texts": ["a", "b"]}, "one text that is not empty, got 2"),
            ({"text": "abcabcabc"}, "takes (6,) at most"),
            ({"text": "\ud800"}, "no UTF-8"),
            (b"{", "no JSON"),
        ],
    )
    def test_what_is_not_streamed(self, writer, body, message):
        status, answer = post(body, "/stream")
        assert status == 400 and message in answer["error"]
