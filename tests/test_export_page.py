"""docs/export.md: its figures are those of the result files, and each cell of the table of strategies is tried."""

import json
import pathlib
import re

import keras
import pytest

import keras_transformer as kt

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def table_below(heading: str) -> list[dict[str, str]]:
    """The rows of the first table of a section, each by the heads of its columns."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def results_of(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_sizes_are_those_of_the_result_file():
    found = results_of("exports_agree")
    rows = [list(row.values()) for row in table_below("Sizes")]
    assert f"of {found['dates']}\ndates" in PAGE
    assert rows == [
        [
            kind,
            *(
                cell
                for strategy in ("greedy", "beam 4")
                for cell in (
                    f"{found['litert_bytes'][f'{strategy}, {kind}'] / 2**20:.1f}",
                    str(found["equal"][f"{strategy}, LiteRT {kind}"]),
                )
            ),
        ]
        for kind in ("float32", "float16", "int8", "int4")
    ]


def test_what_is_said_of_speed_is_so():
    cases = results_of("deploy")["cases"]
    one, many = (
        {name: row["tokens_per_second"] for name, row in cases[f"decoder-{rows}"]["engines"].items()}
        for rows in (1, 32)
    )
    assert one["saved_model"] < min(one[name] for name in ("keras_transformer", "litert", "litert_step", "litert_int8"))
    assert one["litert_int8"] > 2 * one["litert"] > one["litert_step"] > one["litert"] / 2
    assert many["saved_model"] > 10 * one["saved_model"]


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE)
    assert len(links) > 7
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


SLOTS = table_below("Strategies")


@pytest.fixture(scope="module")
def parts():
    """A tokenizer, a model and a draft of it."""
    keras.utils.set_random_seed(0)
    tokenizer = kt.text.CharacterTokenizer("abcdefghijklm")

    def build(dim):
        return kt.models.language_model(
            tokenizer.vocabulary_size, num_layers=1, dim=dim, num_heads=2, intermediate_dim=dim
        )

    return tokenizer, build(12), build(8)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("row", SLOTS, ids=lambda row: row[""])
def test_a_strategy_is_exported_or_refused_as_the_table_says(row, parts, tmp_path):
    for package in ("ai_edge_litert", "litert_lm", "litert_lm_builder", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    tokenizer, model, draft = parts
    given = row[""].strip("`")
    names = {name: getattr(kt, name) for name in re.findall(r"\b[A-Z]\w+", given)}
    options = eval(f"dict({given if '=[' in given else f'strategy={given}'})", {**names, "draft": draft})
    generator = kt.Generator(
        model, max_length=9, end_token=tokenizer.end_id, target_tokenizer=tokenizer, jit_compile=False, **options
    )
    write = {
        "SavedModel, streamed": lambda: kt.export.saved_model(generator, tmp_path / "streamed", streaming=True),
        "SavedModel": lambda: kt.export.saved_model(generator, tmp_path / "saved"),
        "LiteRT, `generate`": lambda: kt.export.litert(generator, tmp_path / "x.tflite", source_length=5),
        "LiteRT, `step`": lambda: kt.export.litert(generator, tmp_path / "s.tflite", source_length=5, layout="step"),
        "LiteRT-LM": lambda: kt.export.litertlm(generator, tmp_path / "x.litertlm", prefill_lengths=[8]),
        "ONNX": lambda: kt.export.onnx(generator, tmp_path / "onnx", source_length=5),
    }
    assert set(row) == {"", *write}
    if row["SavedModel, streamed"] == "yes":  # holds the other's signatures, and tries them
        del write["SavedModel"]
    for column, export in write.items():
        if row[column] == "yes":
            export()
        else:
            assert row[column] == "no"
            with pytest.raises(ValueError, match=r"LiteRT-LM runtime|knows the first token only when"):
                export()
