"""Each script of the lecture has left its figures and its plot, and says what it claims and how to run it."""

import ast
import json
import math
import pathlib
import re

import pytest

from .figures import decimals_in, is_rounded, numbers_in, strange_numbers

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples" / "lecture").glob("[a-z]_*.py"))
FIGURES = ROOT / "docs" / "lecture"
PAGES = ("lecture.md", "lecture.ko.md")
# What follows from a formula: sigmoid(1), sigmoid(5), the root of 32; a rate of label smoothing.
BY_FORMULA = {"0.73", "0.993", "5.7", "0.1"}


def section(page: str, script: str) -> str:
    """What a page says after a script's command, up to the next one or to another heading."""
    return re.split(r"^    python |^## ", page.split(f"/{script}", 1)[1], flags=re.MULTILINE)[0]


def test_there_are_scripts():
    assert SCRIPTS


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_the_ladder_have_its_figures(page):
    figures = numbers_in(json.loads((ROOT / "examples" / "results" / "history.json").read_text()))
    assert not strange_numbers(section((ROOT / "docs" / page).read_text(), "history.py"), figures)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_said_of_the_ladder_follows_from_its_figures(page):
    found = json.loads((ROOT / "examples" / "results" / "history.json").read_text())
    lstm, gru, attention, transformer = found["rungs"].values()

    def bleu(rung, length):
        return rung["beam"]["bleu_by_source_length"][length]["bleu"]

    derived = [bleu(rung, "21-100") / bleu(rung, "8-9") for rung in (lstm, gru, attention, transformer)]
    derived += [bleu(attention, length) - bleu(gru, length) for length in ("1-7", "14-16")]
    derived += [transformer["beam"]["bleu"] - attention["beam"]["bleu"]]
    derived += [transformer["parameters"] / attention["parameters"]]
    said = decimals_in(section((ROOT / "docs" / page).read_text(), "history.py"))
    assert len(said) >= 8
    figures = [*derived, *numbers_in(found)]
    assert [number for number in said if number not in BY_FORMULA and not is_rounded(number, figures)] == []


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
        text = section((ROOT / "docs" / page).read_text(), script.name)
        assert not strange_numbers(text, figures)
        said = [number for number in decimals_in(text) if number not in BY_FORMULA]
        assert [number for number in said if not is_rounded(number, figures)] == []

    def test_its_plot_is_there(self, script):
        assert (FIGURES / f"{script.stem}.png").read_bytes().startswith(b"\x89PNG\r\n")

    def test_its_docstring_says_the_claim_and_the_command(self, script):
        documentation = ast.get_docstring(ast.parse(script.read_text()))
        assert documentation.startswith("Claim: ")
        assert f"python examples/lecture/{script.name}" in documentation


def test_no_figures_are_left_of_a_script_that_is_gone():
    assert {path.stem for path in FIGURES.glob("[a-z]_*.*")} <= {script.stem for script in SCRIPTS}
