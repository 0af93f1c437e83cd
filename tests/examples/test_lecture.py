"""Each script of the lecture has left its figures and its plot, and says what it claims and how to run it."""

import ast
import json
import math
import pathlib
import re

import pytest

from .figures import numbers_in, strange_numbers

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples" / "lecture").glob("[a-z]_*.py"))
FIGURES = ROOT / "docs" / "lecture"
PAGES = ("lecture.md", "lecture.ko.md")


def section(page: str, script: str) -> str:
    """What a page says after a script's command, up to the next one or to another heading."""
    return re.split(r"^    python |^## ", page.split(f"/{script}", 1)[1], flags=re.MULTILINE)[0]


def test_there_are_scripts():
    assert SCRIPTS


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_the_ladder_have_its_figures(page):
    figures = numbers_in(json.loads((ROOT / "examples" / "results" / "history.json").read_text()))
    assert not strange_numbers(section((ROOT / "docs" / page).read_text(), "history.py"), figures)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
class TestScript:
    def test_its_figures_say_what_was_claimed_and_whether_it_holds(self, script):
        figures = json.loads((FIGURES / f"{script.stem}.json").read_text())
        assert figures["command"].startswith(f"python examples/lecture/{script.name}")
        assert re.fullmatch(r"\S.*\.", figures["claim"])
        assert isinstance(figures["holds"], bool)
        settings = ("seed", "seconds", "machine", "versions")
        numbers = numbers_in({name: value for name, value in figures.items() if name not in settings})
        assert numbers
        assert all(map(math.isfinite, numbers))

    @pytest.mark.parametrize("page, verdict", [("lecture.md", "claim holds"), ("lecture.ko.md", "성립합니다")])
    def test_both_pages_show_it_with_the_verdict_of_its_figures(self, script, page, verdict):
        text = (ROOT / "docs" / page).read_text()
        assert f"(lecture/{script.stem}.png)" in text
        holds = json.loads((FIGURES / f"{script.stem}.json").read_text())["holds"]
        assert (verdict in section(text, script.name)) == holds

    @pytest.mark.parametrize("page", PAGES)
    def test_tables_of_both_pages_have_its_figures(self, script, page):
        figures = numbers_in(json.loads((FIGURES / f"{script.stem}.json").read_text()))
        assert not strange_numbers(section((ROOT / "docs" / page).read_text(), script.name), figures)

    def test_its_plot_is_there(self, script):
        assert (FIGURES / f"{script.stem}.png").read_bytes().startswith(b"\x89PNG\r\n")

    def test_its_docstring_says_the_claim_and_the_command(self, script):
        documentation = ast.get_docstring(ast.parse(script.read_text()))
        assert documentation.startswith("Claim: ")
        assert f"python examples/lecture/{script.name}" in documentation


def test_no_figures_are_left_of_a_script_that_is_gone():
    assert {path.stem for path in FIGURES.glob("[a-z]_*.*")} <= {script.stem for script in SCRIPTS}
