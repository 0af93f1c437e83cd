"""CONTRIBUTING.md is followed as it stands: its examples run, and its walk to a new position ends in passing tests."""

import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
STEPS = [re.fullmatch(r"# (\S+), (.*?)\n(.*)", block, flags=re.DOTALL) for block in BLOCKS]
EDITS = [step.groups() for step in STEPS if step]


def edited(text: str, place: str, addition: str) -> str:
    """A file's text with a block of the page in the place that it names."""
    if place == "at the end":
        return text + addition
    kind, name = place.split()
    anchor = re.search(rf"^(# .*\n)*{name} = .*\n", text, flags=re.MULTILINE)
    assert anchor, f"{name} is not defined in that file"
    if kind == "in":
        return text[: anchor.end()] + addition + text[anchor.end() :]
    return text[: anchor.start()] + addition + "\n\n" + text[anchor.start() :]


def test_what_the_page_names_is_there():
    assert len(EDITS) == 6
    for path, place, _ in EDITS:
        assert place == "at the end" or place.split()[1] in (ROOT / path).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE)
    paths = re.findall(r"`((?:tests|keras_transformer|benchmarks|examples|docs)/[\w./]*)`", PAGE)
    assert len(links) >= 5 and len(paths) > 15
    assert [path for path in {*links, *paths} if not (ROOT / path).exists()] == []
    makefile, settings = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "setup.cfg"))
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(re.findall(r"```sh.*?```|`[^`\n]+`", PAGE, re.DOTALL))))
    named |= set(re.findall(r"`(test-[a-z]+)`", PAGE))
    assert {"types", "coverage", "test-slow"} <= named
    assert [target for target in named if f"\n{target}:" not in makefile] == []
    markers = re.findall(r"^    (\w+): ", settings.partition("\nmarkers =\n")[2], flags=re.MULTILINE)
    table = PAGE.partition("| Marker | |\n")[2].partition("\n\n")[0]
    assert {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])} == set(markers)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_examples_run(fresh_process, tmp_path):
    fresh_process("".join(block for block, step in zip(BLOCKS, STEPS, strict=True) if not step), cwd=tmp_path)
    assert (tmp_path / "model.graph").is_file() and (tmp_path / "again" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_walk_to_a_new_position(tmp_path):
    for folder in ("keras_transformer", "keras_transformer_runtime", "tests/layers", "tests/decoding"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for path, place, addition in EDITS:
        file = tmp_path / path
        file.write_text(edited(file.read_text(encoding="utf-8"), place, addition), encoding="utf-8")
    for path in ("keras_transformer/layers/__init__.py", "keras_transformer/__init__.py"):
        file, before = tmp_path / path, {"layers": "AttentionPosition", "keras_transformer": "PositionalEncoding"}
        text = file.read_text(encoding="utf-8")
        text = text.replace(
            f"    {before[file.parent.name]},\n", f"    {before[file.parent.name]},\n    PowerPosition,\n", 1
        )
        text = text.replace('    "PositionalEncoding",\n', '    "PositionalEncoding",\n    "PowerPosition",\n', 1)
        file.write_text(text, encoding="utf-8")

    def run(*command, **environment):
        process = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]
        return process.stdout

    for command in (["ruff", "check"], ["ruff", "format", "--check"]):
        run(*command, "keras_transformer", "tests")
    (arguments,) = re.findall(r"-m pytest -q (keras_transformer/.*) -k \"(.*)\"$", PAGE, flags=re.MULTILINE)
    printed = run("pytest", "-p", "no:cacheprovider", *arguments[0].split(), "-k", arguments[1])
    assert int(re.search(r"(\d+) passed", printed)[1]) > 20


def test_hooks_have_the_ruff_that_is_installed():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert f"rev: v{importlib.metadata.version('ruff')}\n" in hooks


def test_workflows_run_what_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
    steps = {name: [x["run"] for x in jobs["jobs"][name]["steps"] if "run" in x] for name, jobs in workflows.items()}
    assert steps == {"test": [".ci/run", "make types"], "nightly": ["make ${{ matrix.target }}"]}
    targets = workflows["nightly"]["jobs"]["nightly"]["strategy"]["matrix"]["target"]
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    versions = workflows["test"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    settings = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert versions == re.findall(r"Programming Language :: Python :: (\d\.\d+)", settings)
