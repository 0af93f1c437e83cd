"""`kt.export.load` of plain models, of bad input and bad files, and from several threads."""

import json
import threading
import zipfile

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer_runtime.description import NAME, parse

from .conftest import once

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow
PROMPTS = np.array([[5, 9, 22, 4], [11, 6, 0, 0], [8, 0, 0, 0]], "int32")


@pytest.fixture(scope="module")
def folder(exports, decoder_only, classifier):
    once(kt.export.litert, classifier, exports / "classifier.tflite", source_length=7, batch_size=2)
    for layout in ("generate", "step"):
        path = exports / f"{layout}.tflite"
        once(kt.export.litert, decoder_only, path, source_length=4, batch_size=3, layout=layout)
    return exports


@pytest.mark.parametrize("name", ["classifier", "classifier.tflite"])
def test_plain_model(name, folder, classifier):
    runner = kt.export.load(folder / name)
    ids = np.array([[4, 5, 0, 0, 0], [7, 8, 9, 1, 2], [6, 0, 0, 0, 0]])
    expected = classifier(ids)
    rows = [[4, 5], [7, 8, 9, 1, 2], [6]]
    for given in (ids, rows, {"tokens": ids}, np.array(rows, object)):
        (outputs,) = [runner(given)]
        assert set(outputs) == {"classes"}
        np.testing.assert_allclose(outputs["classes"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="cannot stream"):
        runner.stream(ids)


def test_what_padding_would_change_is_not_padded(tmp_path):
    """A mean over time sees what pads; features of fixed length need none."""
    features = keras.Input((None, 3), name="features")
    model = keras.Model(features, keras.layers.GlobalAveragePooling1D()(features) + 1.0)
    kt.export.litert(model, tmp_path / "mean.tflite", source_length=7)
    runner = kt.export.load(tmp_path / "mean.tflite")
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    (output,) = runner(x).values()
    np.testing.assert_allclose(output, x.mean(axis=1) + 1, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"the file takes \(7, 3\) and nothing shorter"):
        runner(x[:, :5])


BAD_IDS = [
    (np.array([[5, -1, 4]]), "ids from -1 to 5; the model takes ids from 0 to 28"),
    (np.array([[5, 29]]), "ids from 5 to 29"),
    (np.array([[5, 2**32 + 5]]), "ids from 5 to 4294967301"),
    (np.array([[5.7, 4.2]]), "must be integers, got float64"),
    (np.array([[True, True]]), "must be integers, got bool"),
    ([[5, True]], "must be integers"),
    (["text"], "no source tokenizer"),
]


@pytest.mark.parametrize("name", ["decoder_only", "generate.tflite", "step.tflite", "classifier", "classifier.tflite"])
def test_ids_that_python_refuses_are_refused(name, folder):
    runner = kt.export.load(folder / name)
    has_prompts = "classifier" not in name
    cases = [*BAD_IDS, (np.array([[5, 0, 4]]), "there is a 0, the id of padding, before a token")]
    for ids, message in cases if has_prompts else BAD_IDS:
        for run in [runner, *([runner.stream] if name in ("decoder_only", "step.tflite") else [])]:
            with pytest.raises(ValueError, match=message):
                run(ids)


@pytest.mark.parametrize("name", ["decoder_only", "generate.tflite", "step.tflite"])
def test_prompts_of_nothing_and_no_prompts(name, folder, decoder_only):
    runner = kt.export.load(folder / name)
    for prompts in (np.zeros((2, 3), "int32"), [[], []], np.zeros((1, 0), "int32"), np.array([[5, 9], []], object), []):
        expected, outputs = decoder_only(prompts), runner(prompts)
        for key, value in expected.items():
            np.testing.assert_allclose(outputs[key], value, rtol=1e-4, atol=1e-4)
            assert outputs[key].dtype == value.dtype
        if name != "generate.tflite":
            np.testing.assert_array_equal(list(runner.stream(prompts)), list(decoder_only.stream(prompts)))


def test_the_longest_sequence_is_part_of_an_export(folder):
    runner = kt.export.load(folder / "step.tflite")
    for run in (runner, runner.stream):
        run(PROMPTS, max_length=11)
        with pytest.raises(ValueError, match="max_length=11, fixed when it was written, got max_length=7"):
            run(PROMPTS, max_length=7)


def test_python_refuses_the_same(decoder_only):
    for ids in [*(ids for ids, _ in BAD_IDS if isinstance(ids, np.ndarray)), np.array([[5, 0, 4]])]:
        with pytest.raises((ValueError, TypeError)):
            decoder_only(ids)


def test_seeds(decoder_only, tmp_path):
    options = {"strategy": kt.Sampling(seed=7), "jit_compile": False}
    generator = kt.Generator(decoder_only.model, max_length=5, end_token=3, **options)
    kt.export.litert(generator, tmp_path / "model.tflite", source_length=4, verify=False)
    runner = kt.export.load(tmp_path / "model.tflite")
    for seed in (None, 7, -1, 2**40 + 7):  # None: the strategy's own
        expected = [generator(row[None], seed=seed)["tokens"] for row in PROMPTS]  # its batches are rows
        np.testing.assert_array_equal(runner(PROMPTS, seed=seed)["tokens"], np.concatenate(expected))
    for seed in (1.5, True, [1, 2], "7"):
        with pytest.raises(ValueError, match="A seed is an integer"):
            runner(PROMPTS, seed=seed)


@pytest.mark.parametrize("name", ["generate.tflite", "step.tflite", "decoder_only"])
def test_one_runner_in_several_threads(name, folder, decoder_only):
    """Whole answers and streams side by side."""
    runner = kt.export.load(folder / name)
    random = np.random.default_rng(0)
    prompts = [random.integers(4, 29, (2, 1 + place % 4)).astype("int32") for place in range(12)]
    expected = [decoder_only(x)["tokens"] for x in prompts]
    streams = [list(decoder_only.stream(x)) for x in prompts]
    found = in_threads(lambda place: runner(prompts[place])["tokens"], len(prompts))
    for answer, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(answer, wanted)
    if name != "generate.tflite":
        found = in_threads(lambda place: list(runner.stream(prompts[place])), len(prompts))
        for answer, wanted in zip(found, streams, strict=True):
            np.testing.assert_array_equal(answer, wanted)


def test_one_generator_in_several_threads(encoder_decoder):
    """New ones, so that they compile in threads, too."""
    generator = kt.Generator(encoder_decoder.model, max_length=7, end_token=3, start_token=2, jit_compile=False)
    random = np.random.default_rng(0)
    sources = [random.integers(4, 23, (2, 1 + place % 3)).astype("int32") for place in range(6)]
    found = in_threads(lambda place: (generator(sources[place])["tokens"], list(generator.stream(sources[place]))), 6)
    for x, (tokens, stream) in zip(sources, found, strict=True):
        np.testing.assert_array_equal(tokens, generator(x)["tokens"])
        np.testing.assert_array_equal(stream, list(generator.stream(x)))


def in_threads(function, count, threads=3):
    """`function` of 0, 1, ... by several threads at once."""
    results, barrier = [None] * count, threading.Barrier(threads)

    def work(first):
        barrier.wait()
        for place in range(first, count, threads):
            results[place] = function(place)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results


def with_description(path, changed, compression=zipfile.ZIP_STORED, **others):
    """A copy of a .tflite file with another description, and other files in its archive."""
    with zipfile.ZipFile(path) as archive:
        description = json.loads(archive.read(NAME))
        content = path.read_bytes()[: description["content"]["size"]]
    copy = path.with_name("copy.tflite")
    copy.write_bytes(content)
    with zipfile.ZipFile(copy, "a", compression) as archive:
        archive.writestr(NAME, json.dumps(changed(description)))
        for name, value in others.items():
            archive.writestr(name, value)
    return copy


def test_a_description_of_wrong_types_is_one_error(folder):
    path = folder / "step.tflite"
    kt.export.load(with_description(path, lambda x: x))
    with zipfile.ZipFile(path) as archive:
        description = json.loads(archive.read(NAME))
    harmless = {"quantize", "seed", "end_token"}
    for name in set(description) - harmless:
        for wrong in (None, "x", 1.5, -1, True, [1], {"a": 1}, [[]], {"a": {}}):
            if isinstance(wrong, type(description[name])) and not isinstance(wrong, list | dict | int):
                continue
            changed = {**description, name: wrong}
            try:
                parse(json.dumps(changed))
            except ValueError as error:
                assert name in str(error) or "no description" in str(error) or "format" in str(error), error
            except Exception as error:
                raise AssertionError(f"{name}={wrong!r}: {error!r}") from error
    for wrong in ([], "text", 5, None, {}, {"format": 99}, {"format": 1, "strategy": 5, "sources": 5}):
        with pytest.raises(ValueError, match="description|format|keras_transformer"):
            kt.export.load(with_description(path, lambda _, wrong=wrong: wrong))
    with pytest.raises(ValueError, match="damaged"):
        copy = with_description(path, lambda x: x)
        copy.write_bytes(copy.read_bytes().replace(b'"format"', b"[[[[[[[["))
        kt.export.load(copy)


def test_signatures_that_are_not_in_the_file(folder):
    def without(name):
        return lambda x: {**x, "signatures": {y: z for y, z in x["signatures"].items() if y != name}}

    path = folder / "step.tflite"
    added = {"no": [{"name": "x", "shape": [1], "dtype": "int32"}]}
    for change in (
        lambda x: {**x, "signatures": {**x["signatures"], **added}},
        without("decode"),
        without("prefill_4"),
    ):
        with pytest.raises(ValueError, match="signature"):
            kt.export.load(with_description(path, change))


def test_a_bomb_is_not_unpacked(folder):
    copy = with_description(folder / "generate.tflite", lambda x: x, zipfile.ZIP_DEFLATED, bomb=bytes(300 * 2**20))
    assert copy.stat().st_size < 2**20
    with pytest.raises(ValueError, match="bytes are packed in a file of"):
        kt.export.load(copy)


def test_a_changed_flatbuffer_is_noticed(folder, tmp_path):
    content = bytearray((folder / "generate.tflite").read_bytes())
    content[len(content) // 2] ^= 1  # in the weights
    (tmp_path / "changed.tflite").write_bytes(content)
    with pytest.raises(ValueError, match="changed after it was written"):
        kt.export.load(tmp_path / "changed.tflite")


def test_descriptions_of_format_1():
    old = {
        "format": 1,
        "keras_transformer": "0.3.0",
        "strategy": "Greedy",
        "num_return": 1,
        "streams": True,
        "takes_seed": False,
        "max_length": 9,
        "vocabulary_size": 29,
        "padding": 0,
        "start_token": 2,
        "end_token": 3,
        "sources": ["source"],
        "target": "target",
    }
    new = parse(json.dumps(old))
    assert (new["kind"], new["padding_id"], new["end_tokens"]) == ("generator", 0, [3])
    assert new["inputs"] == [{"name": "source"}]
    assert parse(json.dumps({"format": 1, "keras_transformer": "0.3.0"}))["kind"] == "model"
