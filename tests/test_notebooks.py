"""The notebooks are made of their scripts, were executed, and say nothing of the machine that did it."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
SCRIPTS = sorted(path for path in NOTEBOOKS.glob("*.py") if path.name != "make.py")

pytestmark = pytest.mark.once


def cells_of(script: pathlib.Path) -> list[tuple[str, str]]:
    """The cells of a script in the percent format, as (kind, text)."""
    cells = []
    for part in re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        markdown = head.strip() == "[markdown]"
        if markdown:
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.strip("\n").splitlines())
        cells.append(("markdown" if markdown else "code", text.strip("\n")))
    return cells


def notebook_of(script: pathlib.Path) -> dict:
    return json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))


def outputs_of(script: pathlib.Path) -> list[dict]:
    return [output for cell in notebook_of(script)["cells"] for output in cell.get("outputs", [])]


def test_there_are_four():
    assert [path.stem for path in SCRIPTS] == ["compose_and_train", "export", "generate", "lecture.ko"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_has_the_cells_of_its_script(script):
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook_of(script)["cells"]]
    assert found == cells_of(script)  # otherwise: make notebooks


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_was_executed_from_top_to_bottom(script):
    counts = [cell["execution_count"] for cell in notebook_of(script)["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = outputs_of(script)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures and script.with_suffix(".ipynb").stat().st_size < 400_000
    printed = json.dumps(outputs)
    assert not re.search(r"/(home|root|work|tmp|Users)/", re.sub(r'"image/png": "[^"]*"', "", printed))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_opens_on_colab_and_installs_the_wheel_there(script):
    first, install = cells_of(script)[:2]
    assert f"/blob/main/notebooks/{script.stem}.ipynb)" in first[1] and "colab.research.google.com" in first[1]
    assert re.search(r'"keras-transformer-layers\[[a-z,]+\]"', install[1])
    compile(install[1], script.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_from_top_to_bottom(script, tmp_path):
    for package in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    path = os.pathsep.join(filter(None, [str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH")]))
    process = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    shares = [float(share) for share in re.findall(r"(\d+\.\d)%", process.stdout)]
    if script.stem != "generate":  # what they train learns its task
        assert shares and max(shares) > 90, process.stdout[-2000:]
