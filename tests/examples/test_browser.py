"""The page of examples/browser, in headless Chromium, says what Python says: ids, tokens, attention.

`make test-browser` installs what it takes from npm; MODEL=folder tests the model that the quickstart saved there
instead of a small random one.
"""

import importlib.util
import os
import pathlib

import keras
import numpy as np
import pytest

import keras_transformer as kt
import keras_transformer_runtime

from .browser import PAGE, drive, need_browser

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
for package in ("babel", "sentencepiece", "tensorflow_text", "ai_edge_litert"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package}", allow_module_level=True)

need_browser()

MODEL = os.environ.get("MODEL")
SOURCE_LENGTH, MAX_LENGTH = 48, 13 if MODEL else 8
ODD_TEXTS = [
    "",
    "  a  b ",
    "\t\n x\x01\x7f",
    "\uff12\uff10\uff12\uff13\u5e74\uff18\u6708 \u337b \ufb01 \u2460",  # wide digits, one sign for an era, ligatures
    "\uff5e\u301c~ \u2581\u2581x\u2581",
    "a\u200bb\u200c\u200d c\u200f1\ufeff\ufffd",
    "\U0001f600\U0001f600 2023 \U0001f600",
    "<pad> <s> </s> <unk>",
    "e\u0301 \u00e9 \u1100\u1161 \u212b",
    "2023\u202fg \u3000 q",
]


def load(name, path):
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dates():
    """Dates to train a tokenizer on, and others."""
    training, _, test = load("dates", PAGE.parent / "dates.py").make_dates(2800, 0, 1400, seed=0)
    return [example.text for example in training], [example.text for example in test]


@pytest.fixture(scope="module")
def trained(dates):
    """A model and the bytes of its tokenizer: small and random, or those that the quickstart saved."""
    if MODEL:
        folder = pathlib.Path(MODEL)
        return keras.saving.load_model(folder / "translator.keras"), (folder / "tokenizer.model").read_bytes()
    tokenizer = kt.text.SentencePieceTokenizer.train(dates[0], 401, character_coverage=0.98, split_digits=True)
    size = tokenizer.vocabulary_size
    model = kt.models.transformer(size, size, num_layers=2, dim=44, num_heads=4, intermediate_dim=53, dropout=0.0)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            width = weight.shape[0 if "kernel" in weight.path else 1]
            weight.assign(random.normal(size=weight.shape) * 2 / width**0.5)
    return model, tokenizer.model


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """The folder of the exported files, and the generator that they hold."""
    folder = tmp_path_factory.mktemp("models")
    exporter = load("export_for_browser", PAGE / "export.py")
    return folder, exporter.export(*trained, folder, SOURCE_LENGTH, MAX_LENGTH)


@pytest.fixture(scope="module")
def texts(dates):
    """What is translated."""
    return dates[1][:50]


@pytest.fixture(scope="module")
def seen(models, dates, texts):
    """What the page showed."""
    return drive("drive.js", "", models[0], texts=texts, tokenize=[*dates[1], *ODD_TEXTS])


@pytest.fixture(scope="module")
def expected(models, trained, texts):
    """Tokens by the Python generator, without padding."""
    ids = kt.text.SentencePieceTokenizer(trained[1])(texts).numpy()
    answer = models[1](ids)
    return [row[:length].tolist() for row, length in zip(answer["tokens"][:, 0], answer["lengths"][:, 0], strict=True)]


def test_nothing_is_fetched_from_elsewhere_and_nothing_fails(seen):
    assert seen["addresses"] == [seen["host"]]
    assert seen["errors"] == []


def test_ids_are_those_of_sentencepiece(seen, trained, models, dates):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=trained[1])
    texts = [*dates[1], *ODD_TEXTS]
    ids = [processor.encode(text) for text in texts]
    assert seen["ids"] == ids
    tokenizer = keras_transformer_runtime.load(models[0] / "translator.tflite").source_tokenizer
    assert seen["decoded"] == [tokenizer.detokenize(row) for row in ids]
    assert any(processor.unk_id() in row for row in ids)


def test_float32_gives_the_tokens_of_python(seen, expected, trained):
    import sentencepiece

    answers = seen["answers"]["translator"]
    assert [answer["tokens"] for answer in answers] == expected
    assert len({tuple(tokens) for tokens in expected}) > 25  # the model says many things
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained[1])
    assert [answer["text"] for answer in answers] == [processor.decode(row).removeprefix(" ") for row in expected]


def test_int8_gives_the_tokens_of_the_same_file_in_python(seen, expected, models, texts):
    answer = keras_transformer_runtime.load(models[0] / "translator-int8.tflite")(texts)
    tokens = [
        row[:length].tolist() for row, length in zip(answer["tokens"][:, 0], answer["lengths"][:, 0], strict=True)
    ]
    shown = [answer["tokens"] for answer in seen["answers"]["translator-int8"]]
    equal, equal_to_float32 = (sum(map(list.__eq__, shown, rows)) for rows in (tokens, expected))
    print(f"int8 in the browser: {equal} of {len(texts)} as int8, {equal_to_float32} as float32 in Python")
    # A processor's kernels round int8 products in their own way, and a random model is at times nearly undecided.
    assert equal >= (len(texts) if MODEL else 0.9 * len(texts))


def test_the_map_is_that_of_attention_weights(seen, expected, trained, texts):
    model, tokenizer = trained
    source_tokenizer = kt.text.SentencePieceTokenizer(tokenizer)
    for place in range(0, 50, 7):
        source, target = source_tokenizer(texts[place : place + 1]).numpy(), np.array([expected[place][:-1]], np.int32)
        recorded = kt.attention_weights(model, [source, target])
        cross = [scores for path, scores in recorded.items() if path.endswith("cross_attention")][-1]
        shown = seen["answers"]["translator"][place]["weights"]
        np.testing.assert_allclose(shown, cross[0].mean(axis=0), atol=1e-4)


def test_the_canvas_shows_the_numbers(seen):
    for answer, colours in zip(seen["answers"]["translator"], seen["colours"], strict=True):
        np.testing.assert_allclose(answer["drawn"], colours, atol=2)


def test_memory_does_not_grow(seen):
    for heap in seen["heap"]:
        assert heap[-1] == heap[4]
