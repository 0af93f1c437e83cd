"""docs/tasks: the code of each page runs as it stands, and holds on data that it was not trained on."""

import numpy as np
import pytest

from .pages import run_page

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function of the name of a page that runs it in an empty folder and gives the names that it leaves."""
    monkeypatch.chdir(tmp_path)
    return lambda name: run_page(f"docs/tasks/{name}.md")


def test_classify(run):
    names = run("classify")
    assert names["accuracy"] > 0.95
    texts = ["the story was not so slow", "the cast was not funny"]
    (exported,) = names["kt"].export.load("reviews")(texts).values()
    np.testing.assert_allclose(exported, names["model"](names["tokenizer"](texts)), atol=1e-4)
    assert exported.argmax(-1).tolist() == [1, 0]


@pytest.mark.slow
def test_translate(run):
    names = run("translate")
    assert names["right"] > 0.85
    assert not {number for number, _ in names["learned"]} & {number for number, _ in names["held_out"]}


@pytest.mark.slow
def test_write(run):
    names = run("write")
    assert names["perplexity"] < 2.2
    assert sum(text in names["texts"] for text in names["written"]) > 45
    assert set(names["written"]) & set(names["held_out"]) and not set(names["learned"]) & set(names["held_out"])


@pytest.mark.slow
def test_images(run):
    names = run("images")
    assert names["accuracy"] > 0.9
    np.testing.assert_allclose(names["weights"].sum(axis=-1), 1.0, atol=1e-4)


@pytest.mark.slow
def test_speech(run):
    assert run("speech")["accuracy"] > 0.9


@pytest.mark.slow
def test_time_series(run):
    names = run("time_series")
    assert names["error"] < 0.25 < names["naive"] / 4


@pytest.mark.slow
def test_pretrain_and_finetune(run):
    names = run("pretrain_and_finetune")
    assert names["pretrained"] > 0.9 and names["scratch"] < 0.75
    assert not any(noun in text for noun in names["animals"][3:] + names["machines"][3:] for text in names["few"][0])


@pytest.mark.slow
def test_lora(run):
    names = run("lora")
    assert names["right"](names["model"], capitals=True) > 0.9
    assert names["trained"] < 0.2 * names["model"].count_params()
    assert not any("lora" in variable.name for variable in names["model"].weights)


@pytest.mark.slow
def test_freeze(run):
    names = run("freeze")
    assert names["accuracy"] > 0.9 and names["same"] and names["trained"] == 66
    after, before = names["encoder"].weights, names["before"]
    moved = {x.path.split("/")[0] for x, y in zip(after, before, strict=True) if not np.array_equal(x, y)}
    assert moved == {"encoder_1"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_quantize(run):
    names = run("quantize")
    right, sizes = names["right"], names["sizes"]
    assert right[None] > 0.9 and right["int8"] > right[None] - 0.02 and right["int4"] > right[None] - 0.1
    assert sizes["int4"] < 0.7 * sizes["int8"] < 0.28 * sizes[None]
    assert names["same"] > 0.97
    np.testing.assert_allclose(
        names["kt"].export.load("most-None.tflite")(names["ids"])["most"], names["model"](names["ids"]), atol=1e-3
    )


def test_tokenizer(run):
    names = run("tokenizer")
    assert names["accuracy"] > 0.99
