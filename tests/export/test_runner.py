"""`kt.export.load` runs what was exported: ids and strings, whole answers and streams, without Keras."""

import json
import zipfile

import numpy as np
import pytest

import keras_transformer as kt

from .conftest import OPTIONS, SIZES, roughen

tf = pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow

TEXTS = ["the cat sat on a mat", "the dog", "a dog and a cat and a dog", "cats sat", "안녕 the big brown dog jumps"]
SOURCES = np.array([[5, 9, 22, 4, 7], [11, 6, 0, 0, 0], [8, 8, 3, 0, 0]], "int32")
PROMPTS = np.array([[5, 9, 22, 4], [11, 6, 0, 0], [8, 0, 0, 0]], "int32")


@pytest.fixture(scope="module")
def tokenizer():
    """Of as many ids as the decoder's vocabulary."""
    return kt.text.SentencePieceTokenizer.train(TEXTS, 29, character_coverage=1.0, add_end=True)


@pytest.fixture(scope="module")
def translator(tokenizer):
    """A generator between texts of one vocabulary."""
    model = roughen(kt.models.transformer(29, 29, **SIZES))
    return kt.Generator(model, max_length=9, **OPTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, translator, decoder_only, tokenizer):
    """The translator as a SavedModel and in both layouts, a sampler and a beam search step by step."""
    folder = tmp_path_factory.mktemp("runner")
    tokenizers = {"source_tokenizer": tokenizer, "target_tokenizer": tokenizer}
    kt.export.saved_model(translator, folder / "saved_model", **tokenizers)
    kt.export.litert(translator, folder / "generate.tflite", source_length=23, batch_size=2, **tokenizers)
    kt.export.litert(translator, folder / "step.tflite", source_length=23, layout="step", **tokenizers)
    for name, strategy in (("sampling", kt.Sampling(seed=4)), ("beams", kt.BeamSearch(3, num_return=2))):
        generator = with_strategy(decoder_only, strategy)
        options = {"source_length": 4, "batch_size": 3, "layout": "step"}
        kt.export.litert(generator, folder / f"{name}.tflite", **options)
    return folder


def with_strategy(generator, strategy):
    return kt.Generator(generator.model, max_length=11, strategy=strategy, **OPTIONS)


@pytest.mark.parametrize("name", ["saved_model", "generate.tflite", "step.tflite"])
def test_texts_and_ids(name, folder, translator, tokenizer):
    runner = kt.export.load(folder / name)
    ids = tokenizer(TEXTS).numpy()
    expected = translator(ids)
    texts = tokenizer.detokenize(expected["tokens"]).numpy()
    for outputs in (
        runner(TEXTS),
        runner(ids),
        runner({"source": ids}),
        runner([[int(i) for i in row] for row in ids]),
    ):
        np.testing.assert_array_equal(outputs["tokens"], expected["tokens"])
        np.testing.assert_array_equal(outputs["lengths"], expected["lengths"])
        np.testing.assert_allclose(outputs["scores"], expected["scores"], rtol=1e-4, atol=1e-4)
        assert outputs["texts"] == [[text.decode() for text in row] for row in texts]


@pytest.mark.parametrize("seed", [4, 17])
def test_stream_of_a_sampler(seed, folder, decoder_only):
    generator = with_strategy(decoder_only, kt.Sampling(seed=seed))
    runner = kt.export.load(folder / "sampling.tflite")
    streamed, expected = (list(x) for x in (runner.stream(PROMPTS, seed=seed), generator.stream(PROMPTS)))
    np.testing.assert_array_equal(streamed, expected)
    np.testing.assert_array_equal(runner(PROMPTS, seed=seed)["tokens"], generator(PROMPTS)["tokens"])


def test_beam_search_step_by_step(folder, decoder_only):
    runner = kt.export.load(folder / "beams.tflite")
    expected = with_strategy(decoder_only, kt.BeamSearch(3, num_return=2))(PROMPTS)
    outputs = runner(PROMPTS)
    assert outputs["tokens"].shape == (3, 2, 11)
    np.testing.assert_array_equal(outputs["tokens"], expected["tokens"])
    np.testing.assert_allclose(outputs["scores"], expected["scores"], rtol=1e-4)
    with pytest.raises(ValueError, match="cannot stream"):
        runner.stream(PROMPTS)


@pytest.mark.slow
def test_several_samples_of_a_source_step_by_step(encoder_decoder, tmp_path):
    """The memory has a row for each of them by then."""
    options = {"max_length": 5, "strategy": kt.Sampling(seed=4, num_return=2), **OPTIONS}
    generator = kt.Generator(encoder_decoder.model, **options)
    path = tmp_path / "model.tflite"
    kt.export.litert(generator, path, source_length=5, batch_size=3, layout="step", verify=False)
    runner, expected = kt.export.load(path), generator(SOURCES)["tokens"]
    assert (expected[:, 0] != expected[:, 1]).any()
    np.testing.assert_array_equal(runner(SOURCES)["tokens"], expected)
    np.testing.assert_array_equal(list(runner.stream(SOURCES)), list(generator.stream(SOURCES)))


def test_saved_model_of_strings_without_keras(folder, translator, tokenizer, bare_process, tmp_path):
    package = tmp_path / "keras_transformer_runtime"
    package.symlink_to(kt.export.load.__code__.co_filename.rpartition("/")[0])
    expected = translator(tokenizer(TEXTS).numpy())["tokens"].tolist()
    bare_process(
        """
        import keras_transformer_runtime

        runner = keras_transformer_runtime.load(data["path"])  # finds the operations of tensorflow_text by itself
        assert runner(data["texts"])["tokens"].tolist() == data["expected"]
        imported = {name for name in sys.modules if sys.modules[name]}
        assert not {"tensorflow_text", "keras", "keras_transformer"} & imported
        """,
        {"path": str(folder / "saved_model"), "texts": TEXTS, "expected": expected},
        without=["keras", "keras_transformer"],
    )


def test_without_keras_and_without_tensorflow(folder, translator, tokenizer, bare_process, tmp_path):
    package = tmp_path / "keras_transformer_runtime"
    package.symlink_to(kt.export.load.__code__.co_filename.rpartition("/")[0])
    expected = translator(tokenizer(TEXTS).numpy())["tokens"].tolist()
    bare_process(
        """
        import keras_transformer_runtime

        runner = keras_transformer_runtime.load(data["path"])
        assert runner(data["texts"])["tokens"].tolist() == data["expected"]
        (row,) = [[int(token) for (token,) in runner.stream(data["texts"][:1])]]
        assert [2, *row] == data["expected"][0][0][: len(row) + 1]
        assert not {"tensorflow", "keras", "keras_transformer"} & {name for name in sys.modules if sys.modules[name]}
        """,
        {"path": str(folder / "step.tflite"), "texts": TEXTS, "expected": expected},
        without=["tensorflow", "keras", "keras_transformer"],
    )


@pytest.mark.parametrize("special", [(), ("<x>", "<x>>", "a+")])
@pytest.mark.parametrize("kind", ["sentencepiece", "character", "byte"])
def test_tokenizers_outside_the_graph_equal_those_inside(kind, special, tokenizer):
    from keras_transformer_runtime.tokenizers import make_tokenizer

    layer = {
        "sentencepiece": tokenizer,
        "character": kt.text.CharacterTokenizer("abcdehnost 안", max_length=7, add_start=True),
        "byte": kt.text.ByteTokenizer(max_length=12, add_end=True),
    }[kind].copy(special_tokens=special)
    settings, parts = layer.runtime_files()
    outside = make_tokenizer({**settings, "files": {name: name for name in parts}}, parts)
    texts = [*TEXTS, "", " ", "👩‍💻 x", "ＡＢ①", "a\tb\nc", "ab<x>>c<x>", "a+<x"]
    inside = layer(texts).numpy()
    for row, text in zip(inside, texts, strict=True):
        assert outside.tokenize(text) == row[: np.flatnonzero(row)[-1] + 1 if row.any() else 0].tolist(), repr(text)
    random = np.random.default_rng(0).integers(0, layer.vocabulary_size + 3, (50, 6))
    inside = [text.decode(errors="replace") for text in layer.detokenize(random).numpy()]
    assert [outside.detokenize(row) for row in random] == inside
    whole = layer.detokenize(random, lengths=np.full(len(random), 5)).numpy()  # ends are left out, and end nothing
    assert [outside.detokenize(row, length=5) for row in random] == [text.decode(errors="replace") for text in whole]


def test_the_file_says_what_is_in_it(folder):
    with zipfile.ZipFile(folder / "step.tflite") as archive:
        description = json.loads(archive.read("keras_transformer.json"))
        pieces = json.loads(archive.read("source.pieces.json"))
    facts = {"max_length": 9, "start_token": 2, "end_tokens": [3], "vocabulary_size": 29, "source_length": 23}
    assert facts.items() <= description.items()
    assert description["keras_transformer"] == kt.__version__
    assert [piece for piece, _ in pieces[:4]] == ["<pad>", "<unk>", "<s>", "</s>"] and len(pieces) == 29
    saved = json.loads((folder / "saved_model" / "assets.extra" / "keras_transformer.json").read_text())
    assert saved["max_length"] == 9


@pytest.mark.parametrize(
    "inputs, message",
    [
        ("the cat", "list of strings"),
        (np.ones((1, 24), "int32"), r"'source' has rows of shape \(24,\); the file takes \(23,\)"),
        ({"target": SOURCES}, r"takes the inputs \['source'\], got \['target'\]"),
        (np.ones(3, "int32"), r"takes an array of shape \(None, None\), got shape \(3,\)"),
    ],
)
def test_bad_input(inputs, message, folder):
    with pytest.raises(ValueError, match=message):
        kt.export.load(folder / "generate.tflite")(inputs)


def test_strings_without_a_tokenizer(folder):
    with pytest.raises(ValueError, match="no source tokenizer"):
        kt.export.load(folder / "sampling.tflite")(["the cat"])


@pytest.mark.slow
def test_saved_model_streams(translator, decoder_only, tokenizer, tmp_path):
    tokenizers = {"source_tokenizer": tokenizer, "target_tokenizer": tokenizer}
    kt.export.saved_model(translator, tmp_path / "translator", streaming=True, **tokenizers)
    ids = tokenizer(TEXTS).numpy()
    np.testing.assert_array_equal(
        list(kt.export.load(tmp_path / "translator").stream(TEXTS)), list(translator.stream(ids))
    )
    sampler = with_strategy(decoder_only, kt.Sampling(seed=4))
    report = kt.export.saved_model(sampler, tmp_path / "sampler", streaming=True)
    assert report.signatures["begin"] == {"tokens": "int32[?,?]"} and report.signatures["advance"]["seed"] == "int32[]"
    runner = kt.export.load(tmp_path / "sampler")
    for seed in (4, 17):  # rows that end at different steps, behind prompts of different lengths
        expected = with_strategy(decoder_only, kt.Sampling(seed=seed)).stream(PROMPTS)
        np.testing.assert_array_equal(list(runner.stream(PROMPTS, seed=seed)), list(expected))


def test_what_cannot_stream(folder, decoder_only, tmp_path):
    for name, remedy in (("saved_model", "streaming=True"), ("generate.tflite", "layout='step'")):
        with pytest.raises(ValueError, match=remedy):
            kt.export.load(folder / name).stream(TEXTS)
    with pytest.raises(ValueError, match="BeamSearch knows the first token only when"):
        kt.export.saved_model(with_strategy(decoder_only, kt.BeamSearch(3)), tmp_path / "beams", streaming=True)
    assert not (tmp_path / "beams").exists()
    with pytest.raises(ValueError, match="1 rows at a time, got 5"):
        kt.export.load(folder / "step.tflite").stream(TEXTS)


def test_what_is_no_export_of_ours(folder, tmp_path):
    whole = (folder / "generate.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[: len(whole) - 100])
    (tmp_path / "saved_model").mkdir()
    for name, message in (
        ("cut.tflite", "cut off"),
        ("saved_model", "not written by kt.export.saved_model"),
        ("nothing", "There is nothing at"),
    ):
        with pytest.raises(ValueError, match=message):
            kt.export.load(tmp_path / name)


@pytest.mark.slow
def test_strings_in_a_litert_file(translator, tokenizer, tmp_path):
    """With the operations of TensorFlow Text registered; the other signature does without."""
    from ai_edge_litert.interpreter import InterpreterWithCustomOps
    from tensorflow_text.core.pybinds import tflite_registrar

    path = tmp_path / "strings.tflite"
    options = {"source_length": 23, "source_tokenizer": tokenizer, "target_tokenizer": tokenizer}
    report = kt.export.litert(translator, path, strings=True, **options)
    assert [name for name in report.operators if not name.isupper()]
    interpreter = InterpreterWithCustomOps(
        model_path=str(path), custom_op_registerers=tflite_registrar.SELECT_TFTEXT_OPS
    )
    run = interpreter.get_signature_runner("serving_default")
    expected = translator(tokenizer(TEXTS).numpy())["tokens"]
    texts = tokenizer.detokenize(expected).numpy()
    for text, tokens, answer in zip(TEXTS, expected, texts, strict=True):
        outputs = run(text=np.array([text.encode()], object))
        np.testing.assert_array_equal(outputs["tokens"][0], tokens)
        assert outputs["texts"].tolist() == [answer.tolist()]
    np.testing.assert_array_equal(kt.export.load(path)(TEXTS)["tokens"], expected)
    with pytest.raises(ValueError, match="strings=True with a source_tokenizer"):
        kt.export.litert(translator, tmp_path / "model.tflite", source_length=5, strings=True)
