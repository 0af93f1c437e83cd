"""The figures of a page are those of the result files that it links to, section by section.

Benchmarks, the lecture, the pages of docs/examples and the sizes of exports have tests of their own, which know more.
"""

import json
import pathlib
import re

import pytest

from .examples.figures import decimals_in, is_rounded, numbers_in, strange_numbers

ROOT = pathlib.Path(__file__).resolve().parent.parent
MADE_BY_A_SCRIPT = {"docs/benchmarks.md", "docs/benchmarks.template.md"}
TABLES_OF_THEIR_OWN = {"docs/export.md"}  # tests/test_export_page.py: MiB of what the file has in bytes
# Decimals that nothing measured: versions, settings, and what is said of a range.
KNOWN = {
    "CONTRIBUTING.md": {"3.11", "3.12", "3.13"},
    "README.md": {"3.11", "3.12", "3.13", "2.0"},
    "docs/architecture.md": {"1.5"},
    "docs/distributed.md": {"3.15"},
    "docs/install.md": {"3.11", "3.13"},
    "docs/migrate/opennmt.md": {"2.32", "2.13", "2.12"},
    "docs/pretrained.md": {"5.24"},
    "docs/tasks/translate.md": {"0.1", "0.3"},
    "docs/training.md": {"3.15"},
    "examples/browser/README.md": {"2.5"},
    "examples/ray/README.md": {"2.60", "0.01"},
    "examples/serving/README.md": {"2.15", "2.20", "2.21"},
    "examples/serving/mobile.md": {"2.6"},
}

pytestmark = pytest.mark.once


def figures_in(path: pathlib.Path) -> list[float]:
    """What a result file has measured."""
    found = json.loads(path.read_text())
    return numbers_in({name: value for name, value in found.items() if name not in ("machine", "versions")})


def figures_behind(text: str) -> list[float]:
    """All figures of the result files that a text links to, or whose scripts it names."""
    named = set(re.findall(r"(benchmarks|examples)/(?:results/)?(\w+)\.(?:json|py)", text))
    files = [ROOT / folder / "results" / f"{name}.json" for folder, name in sorted(named)]
    return [figure for path in files if path.exists() for figure in figures_in(path)]


def sections(pages: list[pathlib.Path], measured: bool) -> list:
    """What stands below each heading of pages, where it names results, or where it names none."""
    found = []
    for page in sorted(pages):
        name = page.relative_to(ROOT).as_posix()
        for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if name not in MADE_BY_A_SCRIPT and bool(figures_behind(section)) == measured:
                found.append(pytest.param(name, section, id=f"{name}: {section.splitlines()[0]}"))
    return found


PAGES = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/tasks/*.md"), *ROOT.glob("docs/migrate/*.md")]
PAGES += [*ROOT.glob("examples/*/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LECTURE = {"docs/lecture.md", "docs/lecture.ko.md"}  # tests/examples/test_lecture.py


@pytest.mark.parametrize("name, section", sections(PAGES, measured=True))
def test_a_section_has_the_figures_of_its_results(name, section):
    figures = figures_behind(section)
    if name not in TABLES_OF_THEIR_OWN:
        assert strange_numbers(section, figures) == []
    if name not in LECTURE:
        unknown = (number for number in decimals_in(section) if number not in KNOWN.get(name, ()))
        assert [number for number in unknown if not is_rounded(number, figures)] == []


def test_a_section_that_names_no_results_has_no_figures():
    found = {}
    for name, section in (x.values for x in sections(PAGES, measured=False)):
        if name not in LECTURE:
            found[name] = found.get(name, set()) | set(decimals_in(section, tables=True))
    assert {name: strange for name, all_ in found.items() if (strange := all_ - KNOWN.get(name, set()))} == {}


def test_figures_that_no_file_has_are_found():
    section = (
        "x (`benchmarks/training_choices.py`) takes 0.4171 of it, 13.6 ms.\n\n| | a |\n|---|---|\n| b | 12.3456 |\n"
    )
    figures = figures_behind(section)
    assert strange_numbers(section, figures) == ["12.3456"]
    assert [number for number in decimals_in(section) if not is_rounded(number, figures)] == ["0.4171"]


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_the_list_of_examples_has_the_figures_of_each(page):
    rows = re.findall(r"^(\| \[[^]]*\]\((\w+)[\w.]*\.md\) .*)$", read(page), re.MULTILINE)
    assert len(rows) == len(list((ROOT / "docs" / "examples").glob("*.ko.md"))) - 1
    for row, name in rows:
        row = re.sub(r"90 ?% (?:band|띠)|8 ?bits|8비트", "", row)  # what was asked for
        assert strange_numbers(row, figures_in(ROOT / "examples" / "results" / f"{name}.json")) == [], name


def read(page: str) -> str:
    return (ROOT / "docs" / "examples" / page).read_text(encoding="utf-8")


def test_other_scripts_have_theirs():
    """BLEU of a run; accuracies, each the mean over seeds."""
    text = read("README.md")
    translate, tuned = (
        json.loads((ROOT / "examples" / "results" / f"{name}.json").read_text()) for name in ("translate", "fine_tune")
    )

    def accuracy(way):
        return 100 * sum(run["test_accuracy"] for run in tuned[way]["runs"]) / len(tuned[way]["runs"])

    bleu, minutes = re.search(r"([\d.]+) BLEU on Multi30k.* after (\d+) minutes", text).groups()
    assert is_rounded(bleu, [translate["test_bleu_beam"]])
    assert int(minutes) == round(translate["seconds_since_resumed"] / 60)
    full, lora = re.search(r"\(([\d.]+) % on SST-2\), by LoRA \(([\d.]+) %\)", text).groups()
    assert (full, lora) == (f"{accuracy('full'):.1f}", f"{accuracy('lora'):.1f}")
