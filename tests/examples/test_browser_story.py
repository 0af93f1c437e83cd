"""The page on which a language model writes, in headless Chromium: texts are Python's, for any temperature and seed.

MODEL=folder tests the model that examples/language_model.py saved there instead of a random one.
"""

import importlib
import os
import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_transformer as kt
import keras_transformer_runtime

from .browser import drive, need_browser
from .scripts import EXAMPLES

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
for package in ("sentencepiece", "tensorflow_text", "ai_edge_litert"):
    pytest.importorskip(package)

need_browser()

MODEL = pathlib.Path(os.environ["MODEL"]) if "MODEL" in os.environ else None
if MODEL is not None and not (MODEL / "language_model.keras").exists():
    MODEL = None
MAX_LENGTH = 256 if MODEL else 61
PROMPTS = ["ROMEO:\n", "What", "a", "O, she doth teach the torches", "\n\n", "To be, or not to be: t"]
TEMPERATURES, SEEDS = (0.8, 1.5), (0, 1, 2**32 - 1, -(2**31))
CHARACTERS = "\n abcdefghijklmnopqrstuvwxyzROMEWTIA:,.'\u00e9\uac00\U0001f600\ufeff\u0301"
ODD_TEXTS = [
    "",
    "  a  b ",
    "\t\n x\x01\x7f",
    "\u00e9e\u0301 \uac00\u1100\u1161",
    "\U0001f600\U0001f601a\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\ufeffa\ufeff\ufffd",
    "a<|x|>b<|x|><|x|>[y].[y]<|x|",
    "<pad> <s> </s> <unk> \u2581\u2581",
    "\u2167 \ufb01 \u337b",
]


def example(name, folder):
    """A script of the examples."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def roughen(model):
    """A random model that says many things."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            width = weight.shape[-1 if "embedding" in weight.path else 0]
            weight.assign(random.normal(size=weight.shape) * 2 / width**0.5)
    return model


@pytest.fixture(scope="module")
def writer():
    """A model, its tokenizer, and what ends a text: of a random model a letter that it writes at times."""
    if MODEL:
        tokenizer = kt.text.Tokenizer.load(MODEL / "language_model.json")
        return keras.saving.load_model(MODEL / "language_model.keras"), tokenizer, tokenizer.end_id
    tokenizer = kt.text.CharacterTokenizer(CHARACTERS)
    model = example("language_model", EXAMPLES).build_model(tokenizer.vocabulary_size, "modern")
    return roughen(model), tokenizer, int(tokenizer(["k"])[0, 0])


@pytest.fixture(scope="module")
def folder(writer, tmp_path_factory):
    """Where the exported file is."""
    model, tokenizer, end = writer
    path = tmp_path_factory.mktemp("models")
    exporter = example("export_story", EXAMPLES / "browser")
    exporter.export(model, tokenizer, path / "language_model.tflite", MAX_LENGTH, end_token=end)
    return path


def python_writes(writer, texts, strategy, **options):
    """The tokens of a Generator for each text alone, and the texts."""
    model, tokenizer, end = writer
    options = {"max_length": MAX_LENGTH, "end_token": end, "target_tokenizer": tokenizer, **options}
    generator = kt.Generator(model, strategy=strategy, jit_compile=False, **options)

    def write(text, **call):
        answer = generator([text], **call)
        return answer["tokens"][0, 0, : answer["lengths"][0, 0]].tolist(), answer["texts"][0][0]

    return write if texts is None else [write(text) for text in texts]


@pytest.fixture(scope="module")
def orders():
    """What the page is asked for, by name."""
    whole = {"count": MAX_LENGTH}
    bad = {"empty": {"text": ""}, "long": {"text": "a" * (MAX_LENGTH + 1)}}
    bad |= {f"seed {seed}": {"text": "a", "seed": seed} for seed in ("1.5", "", str(2**32), str(-(2**31) - 1))}
    bad |= {f"count {count}": {"text": "a", "count": count} for count in ("0", "", str(MAX_LENGTH + 1))}
    return {
        "full": {"text": "a" * MAX_LENGTH, "temperature": 0, "seed": 0, **whole},
        **{f"greedy {text}": {"text": text, "temperature": 0, "seed": 5, **whole} for text in PROMPTS},
        **{
            f"{temperature} {seed} {text}": {"text": text, "temperature": temperature, "seed": seed, **whole}
            for temperature in TEMPERATURES
            for seed in SEEDS
            for text in PROMPTS[:2]
        },
        **{f"bad {name}": {"temperature": 0.8, "seed": 1, **whole, **order} for name, order in bad.items()},
        "again": {"text": PROMPTS[0], "temperature": 0.8, "seed": 0, **whole},
        "stop": {"text": PROMPTS[0], "temperature": 0, "seed": 0, **whole, "stop": 7},
        "count": {"text": PROMPTS[0], "temperature": 0, "seed": 0, "count": 5},
        "unknown": {"text": "\u4e00a\u4e01", "temperature": 0, "seed": 0, "count": 2},
    }


@pytest.fixture(scope="module")
def shown(folder, orders):
    """What the page showed, by name, and the rest of what was seen."""
    found = drive("drive_story.js", "story.html", folder, writings=list(orders.values()), another=True)
    return {**found, **dict(zip(orders, found["seen"], strict=True))}


def test_nothing_is_fetched_from_elsewhere_and_nothing_fails(shown):
    assert shown["addresses"] == [shown["host"]]
    assert shown["errors"] == []


def test_at_temperature_0_the_text_is_that_of_greedy_search(shown, writer):
    expected = python_writes(writer, PROMPTS, kt.Greedy())
    found = [shown[f"greedy {text}"] for text in PROMPTS]
    assert [seen["tokens"] for seen in found] == [tokens for tokens, _ in expected]
    assert [seen["text"] for seen in found] == [text for _, text in expected]
    assert [seen["given"] for seen in found] == PROMPTS
    assert all(seen["text"] != text for seen, text in zip(found, PROMPTS, strict=True))
    assert len({len(tokens) for tokens, _ in expected}) > (0 if MODEL else 1)


def check_drawn(writer, strategy, seed, found, expected):
    """Two texts are one, up to where the random number lies on the border between two tokens: there they may part."""
    if found == expected:
        return
    parts = next(place for place, (x, y) in enumerate(zip(found, expected, strict=False)) if x != y)
    logits = np.array(writer[0](np.array([expected[:parts]])))[:, -1].astype("float64")
    logits[:, 0] = -np.inf  # padding
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    weights = np.array(strategy.weights(np.log(np.maximum(probabilities, 1e-30)).astype("float32")))[0].astype(
        "float64"
    )
    drawn = float(strategy.with_seed(seed).uniforms(np.array([parts], "int32"))[0])
    border = weights[: max(found[parts], expected[parts])].sum() / weights.sum()
    assert abs(drawn - border) < 1e-4, f"token {parts}: {drawn} is not at {border}"


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_seed_gives_the_text_that_it_gives_in_python(shown, writer, temperature):
    strategy = kt.Sampling(temperature=temperature, top_p=0.95)
    write = python_writes(writer, None, strategy)
    texts, equal = [], []
    for seed in SEEDS:
        for text in PROMPTS[:2]:
            seen, (tokens, written) = shown[f"{temperature} {seed} {text}"], write(text, seed=seed)
            check_drawn(writer, strategy, seed, seen["tokens"], tokens)
            equal.append((seen["tokens"], seen["text"]) == (tokens, written))
            texts.append(seen["text"])
    assert sum(equal) >= len(equal) - 2
    assert len(set(texts)) == len(texts) > 7


def test_the_runner_gives_the_same_with_the_temperature_of_the_file(shown, folder):
    runner = keras_transformer_runtime.load(folder / "language_model.tflite")
    for seed in SEEDS:
        assert runner(PROMPTS[:1], seed=seed)["texts"][0][0] == shown[f"0.8 {seed} {PROMPTS[0]}"]["text"]


def test_the_same_seed_gives_the_same_text_and_another_another(shown):
    first = shown[f"0.8 0 {PROMPTS[0]}"]
    assert shown["again"]["tokens"] == first["tokens"]
    assert shown[f"1.5 0 {PROMPTS[0]}"]["tokens"] != first["tokens"]
    before, after = map(int, shown["pressed"]["seeds"])
    assert before != after and 0 <= after < 2**32


def test_tokens_are_shown_as_they_come(shown):
    seen = shown[f"0.8 0 {PROMPTS[0]}"]
    written = len(seen["tokens"]) - len(PROMPTS[0])
    assert written > 5
    grown = list(dict.fromkeys(seen["grown"]))
    assert all(seen["text"].startswith(text) and len(text) >= len(PROMPTS[0]) for text in grown)
    assert grown == sorted(grown, key=len)
    assert len(grown) > 0.8 * written  # what may be half a character comes with the next
    # Read out when it is complete; before, only Stop may be pressed, and has the focus.
    assert seen["busy"] == ["true busy stop stop", f"false done {seen['rested'].removeprefix('false ')}"]
    assert seen["rested"] == "false write,another write"


def test_stop_stops(shown):
    seen, whole = shown["stop"], shown[f"greedy {PROMPTS[0]}"]["tokens"]
    assert seen["state"] == "stopped"
    assert len(seen["tokens"]) < len(whole)
    assert len(seen["tokens"]) - seen["stoppedAt"] <= 1
    assert seen["tokens"] == whole[: len(seen["tokens"])] == seen["later"]
    assert f"Stopped after {len(seen['tokens']) - len(PROMPTS[0])} tokens" in seen["status"]
    assert seen["rested"] == "false write,another write"


def test_it_writes_as_many_tokens_as_asked_for_at_most(shown):
    seen, whole = shown["count"], shown[f"greedy {PROMPTS[0]}"]["tokens"]
    assert seen["state"] == "done" and seen["status"] == "5 tokens written."
    assert seen["tokens"] == whole[: len(PROMPTS[0]) + 5]


def test_it_says_why_a_text_ends(shown, writer):
    endings = set()
    for name, seen in shown.items():
        if name.startswith(("greedy", "0.8", "1.5")):
            written = len(seen["tokens"]) - len(seen["given"])
            ends = seen["tokens"][-1] == writer[2]
            told = (
                f"It ended the text itself, after {written} token"
                if ends
                else f"{written} tokens written{'.' if written >= MAX_LENGTH else '; the text is as long as'}"
            )
            assert seen["status"].startswith(told)
            endings.add(ends)
    assert endings == ({False} if MODEL else {False, True})
    assert shown["full"]["status"] == "0 tokens written; the text is as long as the file allows."


def test_bad_input_is_refused_in_plain_words_and_the_page_goes_on(shown):
    assert shown["bad empty"]["status"] == "The text is empty; the model needs a beginning to go on from."
    assert shown["bad long"]["status"] == f"The text has {MAX_LENGTH + 1} tokens; the file takes {MAX_LENGTH} at most."
    for seed in ("1.5", str(2**32), str(-(2**31) - 1)):
        told = f"The seed is an integer from {-(2**31)} to {2**32 - 1}, got {seed}."
        assert shown[f"bad seed {seed}"]["status"] == told
    for count in ("0", str(MAX_LENGTH + 1)):
        told = f"The number of tokens is an integer from 1 to {MAX_LENGTH}, got {count}."
        assert shown[f"bad count {count}"]["status"] == told
    assert shown["bad seed "]["status"].endswith("got nothing that is a number.")
    assert {seen["state"] for name, seen in shown.items() if name.startswith("bad")} == {"error"}
    assert shown["again"]["state"] == "done"


def test_it_says_what_it_cannot_read(shown, writer):
    unknown = writer[1].unk_id
    assert shown["unknown"]["tokens"][::2][:2] == [unknown, unknown]
    assert shown["unknown"]["given"] == "\ufffda\ufffd"
    assert shown["unknown"]["status"].endswith("It does not know 2 of the 3 tokens it was given.")


def test_memory_does_not_grow(shown, orders):
    heap = [shown[name]["heap"] for name in orders]
    assert heap[-1] == heap[4]


def test_a_missing_file_is_told(folder):
    found = drive("drive_story.js", "story.html?models=nothing/", folder, state="error", look=True)
    assert "nothing/language_model.tflite: 404" in found["looked"]["status"]
    assert found["looked"]["enabled"] == []


TOKENIZERS = {
    "characters": lambda: kt.text.CharacterTokenizer(CHARACTERS, special_tokens=["<|x|>", "[y].[y]"], add_end=True),
    "short": lambda: kt.text.CharacterTokenizer(CHARACTERS, max_length=4, add_start=True),
    "bytes": lambda: kt.text.ByteTokenizer(special_tokens=["<|x|>"], max_length=11, add_start=True, add_end=True),
    "pieces": lambda: kt.text.SentencePieceTokenizer.train(["to be or not to be", "a rose"] * 9, 14, add_end=True),
    "special": lambda: kt.text.SentencePieceTokenizer.train(["a b c", "b c"] * 9, 9, special_tokens=["<|x|>"]),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of small files, one of each tokenizer, and their generators by name."""
    folder, generators = tmp_path_factory.mktemp("small"), {}
    for name, make in TOKENIZERS.items():
        tokenizer = make()
        keras.utils.set_random_seed(0)
        model = roughen(
            kt.models.language_model(tokenizer.vocabulary_size, num_layers=1, dim=20, num_heads=2, intermediate_dim=22)
        )
        ids = {"start_token": tokenizer.start_id, "end_token": tokenizer.end_id}
        generators[name] = kt.Generator(model, max_length=19, target_tokenizer=tokenizer, jit_compile=False, **ids)
        file = folder / ("language_model.tflite" if name == "bytes" else f"{name}.tflite")
        kt.export.litert(generators[name], file, source_length=19, layout="step")
    return folder, generators


def test_ids_and_texts_of_every_tokenizer_are_those_of_the_runner(small):
    folder, generators = small
    random = np.random.default_rng(0)
    files = {("language_model" if name == "bytes" else name) + ".tflite": x for name, x in generators.items()}
    rows = {
        file: [random.integers(0, x.target_tokenizer.vocabulary_size, 13).tolist() for _ in range(40)]
        for file, x in files.items()
    }
    broken = (b"\xef\xbb\xbfa", b"\xf0\x9f\x98", b"\xed\xa0\x80")
    rows["language_model.tflite"] += [[4 + byte for byte in text] for text in broken]
    given = {file: ODD_TEXTS for file in files}
    found = drive("drive_story.js", "story.html", folder, tokenize=given, decode=rows)
    for file, generator in files.items():
        runner = keras_transformer_runtime.load(folder / file)
        assert found["ids"][file] == [runner.source_tokenizer.tokenize(text) for text in ODD_TEXTS]
        assert found["decoded"][file] == [runner.text_of(row) for row in rows[file]]
        graph = generator.target_tokenizer.tokenize_ragged(ODD_TEXTS).to_list()
        assert found["ids"][file] == graph


def test_a_file_of_bytes_without_temperature_or_seed_writes_from_nothing(small):
    folder, generators = small
    texts = ["", "a", "\u00e9\U0001f600"]
    writings = [{"text": text, "count": 19} for text in texts]
    found = drive("drive_story.js", "story.html", folder, writings=writings, look=True)
    for text, seen in zip(texts, found["seen"], strict=True):
        answer = generators["bytes"]([text])
        assert seen["state"] == "done", seen["status"]
        assert seen["tokens"] == answer["tokens"][0, 0, : answer["lengths"][0, 0]].tolist()
        assert seen["text"] == answer["texts"][0][0]
    assert found["looked"]["disabled"] == ["temperature", "seed", "another", "stop"]
