"""The benchmarks: they run, they go on where they left off, and their page is what their result files say."""

import argparse
import importlib
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
HELPERS = {"decode_engines", "page", "plots", "report", "run"}

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def modules():
    """run.py, page.py and plots.py, which are scripts beside one another."""
    pytest.importorskip("rich")
    sys.path.insert(0, str(BENCHMARKS))
    yield argparse.Namespace(**{name: importlib.import_module(name) for name in ("run", "page", "plots", "report")})
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def results(modules):
    return modules.page.load_results()


@pytest.fixture(scope="module")
def drawn(modules, results):
    """The names of the plots whose figures are measured."""
    return {draw.__name__ for draw in modules.plots.drawable(results)}


class TestPage:
    def test_is_what_the_result_files_and_the_template_say(self, modules, results):
        written = modules.page.PAGE.read_text()
        assert written == modules.page.render(modules.page.TEMPLATE.read_text(), results), (
            "docs/benchmarks.md is made from docs/benchmarks.template.md: `python benchmarks/run.py --page`"
        )

    def test_plots_are_of_the_figures_of_the_result_files(self, modules, results, drawn):
        folder = modules.page.PAGE.with_suffix("")
        for name in drawn:
            assert modules.plots.digest(results[name]) in (folder / f"{name}.svg").read_text(), "`run.py --page`"
        assert {path.stem for path in folder.iterdir()} == drawn

    def test_shows_every_plot_and_names_every_result(self, modules, drawn):
        page = modules.page.PAGE.read_text()
        for name in drawn:
            assert f"(benchmarks/{name}.svg)" in page
        for path in modules.report.RESULTS.glob("*.json"):
            assert f"(../benchmarks/results/{path.name})" in page

    def test_leaves_out_sections_of_what_is_not_measured(self, modules, results):
        template = "# All\n\n## One\n\n{2 + 2}\n\n## Two ([result](../benchmarks/results/none.json))\n\n{none.x}\n"
        page = modules.page.render(template, results)
        assert "4" in page and "Two" not in page

    def test_follows_a_figure_that_changes(self, modules):
        results = modules.page.load_results()
        results.batching.real_tokens.packing.times_plain = 47.11
        assert "47.11" in modules.page.render(modules.page.TEMPLATE.read_text(), results)

    def test_names_what_a_result_file_lacks(self, modules, results):
        with pytest.raises(AttributeError, match="have no seconds_in_all; they have .*rounds"):
            modules.page.render("{importing.seconds_in_all}", results)

    def test_has_no_measured_figure_written_by_hand(self, modules):
        """Decimals outside of expressions: settings, goals, versions and what others have published."""
        prose = re.sub(r"\{[^{}]*\}", "", modules.page.TEMPLATE.read_text())
        known = {"0.1", "0.3", "0.9", "1.5", "1.2", "1.8", "0.6", "41.02", "40.81", "0.2.2", "0.2.3", "2105.14462"}
        assert set(re.findall(r"(?<![\w.])\d+(?:\.\d+)+(?!\w)", prose)) <= known


class TestList:
    def test_every_script_stands_in_it(self, modules):
        listed = {pathlib.Path(benchmark.path).stem for benchmark in modules.run.BENCHMARKS}
        assert listed == {path.stem for path in BENCHMARKS.glob("*.py")} - HELPERS

    def test_every_result_file_is_one_of_its(self, modules):
        names = {benchmark.name for benchmark in modules.run.BENCHMARKS}
        assert {path.stem for path in modules.report.RESULTS.glob("*.json")} <= names


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from report import make_parser, save_results
options = make_parser("Counts.", "counting").parse_args()
counter = Path({counter!r})
counter.write_text(str(int(counter.read_text()) + 1))
print("the table")
{fails}
save_results(options.output, {script!r}, {{"count": int(counter.read_text())}})
"""


class TestRun:
    """With scripts of a repository of its own, which count how often they ran."""

    @pytest.fixture
    def repository(self, modules, tmp_path, monkeypatch):
        (tmp_path / "benchmarks" / "results").mkdir(parents=True)
        (tmp_path / "keras_transformer").mkdir()
        (tmp_path / "keras_transformer" / "part.py").write_text("VALUE = 1")
        monkeypatch.setattr(modules.report, "REPOSITORY", tmp_path)
        monkeypatch.setattr(modules.run, "REPOSITORY", tmp_path)
        monkeypatch.delenv("QUICK_BENCHMARK", raising=False)
        return tmp_path

    def write(self, repository, name, fails=""):
        counter = repository / f"{name}.count"
        if not counter.exists():
            counter.write_text("0")
        values = {"benchmarks": str(BENCHMARKS), "counter": str(counter), "script": f"benchmarks/{name}.py"}
        text = SCRIPT.format(**values, fails=fails)
        # The script's `source` is of the repository that stands for ours here.
        text = text.replace("\noptions", f"\nimport report; report.REPOSITORY = Path({str(repository)!r})\noptions", 1)
        (repository / "benchmarks" / f"{name}.py").write_text(text)

    def run(self, modules, repository, *benchmarks, **options):
        from rich.console import Console

        folder = repository / "benchmarks" / "results"
        options = argparse.Namespace(**{"quick": False, "again": False, "results": folder, **options})
        with open(repository / "printed", "w") as file:
            failed = modules.run.run_all(list(benchmarks), options, Console(file=file, width=200))
        return failed, (repository / "printed").read_text()

    def counts(self, repository, *names):
        return [int((repository / f"{name}.count").read_text()) for name in names]

    @pytest.fixture
    def two(self, modules, repository):
        def benchmark(name):
            # --output is given as to a script that writes several files.
            return modules.run.Benchmark(name, 0.01, name, need=lambda options: [])

        self.write(repository, "one")
        self.write(repository, "two", fails="raise SystemExit('no luck')")
        return benchmark("one"), benchmark("two")

    def test_goes_on_where_it_left_off(self, modules, repository, two):
        failed, printed = self.run(modules, repository, *two)
        assert failed == ["two"] and "the table" in printed and "no luck" in printed
        self.write(repository, "two")
        failed, printed = self.run(modules, repository, *two)
        assert failed == [] and "one is measured" in printed
        assert self.counts(repository, "one", "two") == [1, 2]

    @pytest.mark.parametrize("change", ["package", "arguments", "again"])
    def test_measures_again_what_is_of_something_else(self, change, modules, repository, two):
        one, _ = two
        self.run(modules, repository, one)
        options = {}
        if change == "package":
            (repository / "keras_transformer" / "part.py").write_text("VALUE = 2")
        elif change == "arguments":
            one = modules.run.Benchmark("one", 0.01, "one", need=lambda options: ["--quick"])
        else:
            options = {"again": True}
        self.run(modules, repository, one, **options)
        assert self.counts(repository, "one") == [2]

    def test_leaves_out_with_a_word_what_cannot_run(self, modules, repository, two):
        no_data = modules.run.downloads("data/none", "no.such.host.invalid", "data")
        one = modules.run.Benchmark("one", 0.01, "one", need=no_data)
        failed, printed = self.run(modules, repository, one, data=None)
        assert failed == [] and self.counts(repository, "one") == [0]
        assert "one is left out: no --data is given, and no.such.host.invalid cannot be reached." in printed


def run_quick(folder, *names):
    """`run.py --quick`: the result files, by name."""
    command = [sys.executable, BENCHMARKS / "run.py", "--quick", "--results", folder]
    only = ["--only", *names] if names else []
    done = subprocess.run([*command, *only], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}, done.stdout


@pytest.mark.slow
def test_quick_run_of_one(modules, tmp_path):
    found, printed = run_quick(tmp_path, "training_choices")
    assert [row["part"] for row in found["training_choices"]["milliseconds"]]
    assert "ms, forward and backward" in printed


@pytest.mark.slow
def test_quick_run_of_all(modules, tmp_path):
    pytest.importorskip("ctranslate2")
    found, printed = run_quick(tmp_path)
    left_out = set(re.findall(r"^(\w+) is left out", printed, re.MULTILINE))
    assert left_out <= {"gpu"}
    assert set(found) == {benchmark.name for benchmark in modules.run.BENCHMARKS} - left_out
