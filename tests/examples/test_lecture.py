"""Each script of the lecture has left its figures and its plot, and says what it claims and how to run it."""

import ast
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples" / "lecture").glob("[a-z]_*.py"))
FIGURES = ROOT / "docs" / "lecture"


def numbers_in(value):
    """All numbers of a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, int | float) else []


def test_there_are_scripts():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
class TestScript:
    def test_its_figures_say_what_was_claimed_and_whether_it_holds(self, script):
        figures = json.loads((FIGURES / f"{script.stem}.json").read_text())
        assert figures["command"].startswith(f"python examples/lecture/{script.name}")
        assert re.fullmatch(r"\S.*\.", figures["claim"])
        assert isinstance(figures["holds"], bool)
        measured = {name: value for name, value in figures.items() if name not in ("seed", "machine", "versions")}
        assert numbers_in(measured)
        assert all(number == number for number in numbers_in(measured)), "not a number"

    def test_its_plot_is_there(self, script):
        assert (FIGURES / f"{script.stem}.png").read_bytes().startswith(b"\x89PNG\r\n")

    def test_its_docstring_says_the_claim_and_the_command(self, script):
        documentation = ast.get_docstring(ast.parse(script.read_text()))
        assert documentation.startswith("Claim: ")
        assert f"python examples/lecture/{script.name}" in documentation


def test_no_figures_are_left_of_a_script_that_is_gone():
    assert {path.stem for path in FIGURES.glob("[a-z]_*.*")} <= {script.stem for script in SCRIPTS}
