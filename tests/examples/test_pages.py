"""Each page of docs/examples is there in both languages, and its tables hold the figures of its result file."""

import ast
import json
import math
import pathlib

import pytest

from .figures import numbers_in, strange_numbers

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "examples"
NAMES = sorted(path.stem for path in PAGES.glob("*.md") if "." not in path.stem and path.stem != "README")


def figures_of(name):
    return json.loads((ROOT / "examples" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
class TestPage:
    def test_its_figures_are_of_a_whole_run(self, name):
        figures = figures_of(name)
        assert figures["command"].startswith(f"python examples/{name}.py")
        assert figures["quick"] is False
        assert all(map(math.isfinite, numbers_in(figures)))

    @pytest.mark.parametrize("ending", [".md", ".ko.md"])
    def test_its_tables_hold_them(self, name, ending):
        text = (PAGES / f"{name}{ending}").read_text()
        figures = figures_of(name)
        del figures["machine"], figures["versions"]
        assert "|" in text and not strange_numbers(text, numbers_in(figures))
        assert f"({name}.png)" in text and f"python examples/{name}.py" in text

    def test_its_plot_is_there(self, name):
        assert (PAGES / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")

    def test_its_script_is_short_and_says_how_it_is_run(self, name):
        source = (ROOT / "examples" / f"{name}.py").read_text()
        assert len(source.splitlines()) <= 200
        assert f"python examples/{name}.py" in ast.get_docstring(ast.parse(source))


def test_all_pages_are_listed():
    for ending in (".md", ".ko.md"):
        listed = (PAGES / f"README{ending}").read_text()
        assert all(f"({name}{ending})" in listed for name in NAMES)


def test_the_page_of_ray_holds_its_figures():
    text, figures = (ROOT / "examples" / "ray" / "README.md").read_text(), figures_of("ray")
    assert figures["command"].startswith("python examples/ray/measure.py")
    assert figures["lines"]["lines"] == 20_000 and figures["server"]["requests"] == 2000
    del figures["machine"], figures["versions"]
    table = text.partition("## Figures")[2]
    assert table.count("|") > 20 and not strange_numbers(table, numbers_in(figures))
