"""What the scripts of this folder have in common: they leave a figure file and a plot, and print what they found."""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI

import keras
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1]))  # for multi30k.py
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from report import save_results

ROOT = Path(__file__).parents[2]
SEED = 0
BEGIN = time.perf_counter()


def arguments(documentation: str, *, data: str | None = None) -> argparse.Namespace:
    """What a script is called with; sets the seed, and lets the process keep the memory that it frees.

    Args:
        documentation: The script's own.
        data: Help of `--data`, for a script that reads a data set.
    """
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "lecture", help="folder of figures and plots")
    if data is not None:
        parser.add_argument("--data", type=Path, help=data)
    options = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    kt.training.keep_freed_memory()
    return options


def write(options: argparse.Namespace, script: str, claim: str, holds: bool, figures: dict, plot: Figure) -> None:
    """Write the figure file and the plot of a script, and say whether the claim holds and how long that took.

    Args:
        options: From `arguments`.
        script: The script's `__file__`; its name becomes that of the files, with .json and .png.
        claim: What the lecture says, in a sentence.
        holds: Whether the figures bear it out.
        figures: What was measured, as JSON takes it.
        plot: The picture.
    """
    name = Path(script).stem
    seconds = round(time.perf_counter() - BEGIN)
    figures = {"claim": claim, "holds": bool(holds), "seed": SEED, "seconds": seconds, **figures}
    save_results(options.output / f"{name}.json", f"examples/lecture/{name}.py", figures)
    plot.savefig(options.output / f"{name}.png", dpi=110)
    console = Console()
    console.print(f"Claim: {claim}\n[bold]{'It holds.' if holds else 'It does NOT hold here.'}[/bold]")
    console.print(f"Written: {name}.json and {name}.png in {options.output.name}/, after {seconds} s")


def table(title: str, columns: list[str], rows: list[list]) -> None:
    """Print a table."""
    grid = Table(title=title)
    for place, column in enumerate(columns):
        grid.add_column(column, justify="right" if place else "left")
    for row in rows:
        grid.add_row(*map(str, row))
    Console().print(grid)
