"""What the examples of docs/examples have in common: where their data is, what they leave, an export run elsewhere.

Each trains one model for each seed. What is chosen is chosen on the validation data; the test data comes last. It
leaves examples/results/<name>.json, docs/examples/<name>.png and an export, which another process has run.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from report import REPOSITORY, save_results

ELSEWHERE = """
import sys
import numpy as np
import keras_transformer_runtime
_, model, inputs, outputs = sys.argv
with np.load(inputs) as arrays:
    given = {name: arrays[name] for name in arrays.files}
given = {name: [text.decode() for text in x] if x.dtype.kind == "S" else x for name, x in given.items()}
found = keras_transformer_runtime.load(model)(given if len(given) > 1 else next(iter(given.values())))
assert "keras_transformer" not in sys.modules
np.savez(outputs, **{name: np.asarray(x) for name, x in found.items() if np.asarray(x).dtype.kind in "fiub"})
"""


def parse(documentation: str, *, data: str, seeds: int = 3, add=None) -> argparse.Namespace:
    """What a script is called with.

    Args:
        documentation: The script's own.
        data: Which files the folder `--data` holds.
        seeds: How many trainings, unless `--seeds` tells.
        add: A function of the parser that adds further options.
    """
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder with {data}, or of such folders; default: download")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(seeds)), help="a training for each")
    parser.add_argument("--quick", action="store_true", help="few examples, a short training: to see that it runs")
    parser.add_argument(
        "--output", type=Path, help="folder for all that is left (default: the repository, and exports/)"
    )
    if add is not None:
        add(parser)
    options = parser.parse_args()
    if options.quick and options.output is None:
        options.output = Path(tempfile.mkdtemp(prefix="quick_examples_"))
    kt.training.keep_freed_memory()
    return options


def find(folder: Path | None, name: str, source: str) -> Path:
    """The file of that name, or compressed as name.gz, in a folder or in one of its folders; without a folder it is
    downloaded to Keras' cache.

    Raises:
        SystemExit: If the folder has no such file.
    """
    if folder is None:
        return Path(keras.utils.get_file(source.rpartition("/")[2], source, cache_subdir="datasets/keras_transformer"))
    found = [path for part in ("", "*/") for end in ("", ".gz") for path in sorted(folder.glob(part + name + end))]
    if not found:
        raise SystemExit(f"There is no {name} or {name}.gz in {folder}. Leave out --data to download it from {source}.")
    return found[0]


def read_lines(folder: Path | None, name: str, source: str, encoding: str = "utf-8") -> list[str]:
    """The lines of a file that `find` finds, or of what is compressed in it."""
    path = find(folder, name, source)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding=encoding, newline="") as file:
        return [line.rstrip("\r") for line in file.read().removesuffix("\n").split("\n")]


class Runs(dict):
    """Figures of trainings by name, kept in a file beside what they left, so that none is done twice.

    Args:
        path: The file.
        settings: What the figures depend on.

    Raises:
        SystemExit: If the file is of other settings.
    """

    def __init__(self, path: Path, settings: dict):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        kept = json.loads(path.read_text()) if path.exists() else {"settings": self.settings, "runs": {}}
        if kept["settings"] != self.settings:
            raise SystemExit(
                f"{path.parent} has trainings with {kept['settings']}, but the script is set to {self.settings}. "
                "Remove the folder to begin anew."
            )
        super().__init__(kept["runs"])
        self._keep()

    def __setitem__(self, name: str, figures: dict) -> None:
        super().__setitem__(name, figures)
        self._keep()

    def _keep(self) -> None:
        beside = self.path.with_suffix(".partial")
        beside.write_text(json.dumps({"settings": self.settings, "runs": self}))
        beside.replace(self.path)


def place(options: argparse.Namespace, *parts: str) -> Path:
    """A path below --output, or in the repository."""
    path = (options.output or REPOSITORY).joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write(options: argparse.Namespace, name: str, figures: dict, plot: Figure) -> None:
    """Write the figures and the plot of a script, and say where."""
    plot.savefig(place(options, "docs", "examples", f"{name}.png"), dpi=110)
    path = place(options, "examples", "results", f"{name}.json")
    save_results(path, f"examples/{name}.py", {"quick": options.quick, **figures})
    print(f"Written: {path.name} and {name}.png")


def optimizer(rate: float, steps: int, **options) -> keras.optimizers.Optimizer:
    """AdamW whose rate rises in a tenth of the steps and then falls, as a cosine."""
    first = steps // 10
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - first, warmup_target=rate, warmup_steps=first)
    return keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0, **options)


def fit(model: keras.Model, training, validation, *, epochs: int, folder: Path) -> list[dict]:
    """Train a compiled model on batches of `kt.training`, from where an earlier run left the folder.

    Its weights are then those of the epoch with the lowest perplexity on the validation data.

    Returns: The logs of all epochs.
    """
    checkpoints = kt.training.Checkpoints(folder, keep=1)
    position, best = checkpoints.resume(model), folder.with_suffix(".weights.h5")
    before = min((epoch["val_perplexity"] for epoch in checkpoints.history), default=None)
    keep = keras.callbacks.ModelCheckpoint(
        best, "val_perplexity", mode="min", save_best_only=True, save_weights_only=True, initial_value_threshold=before
    )
    model.fit(
        training.from_step(position.step),
        validation_data=validation,
        initial_epoch=position.epoch,
        epochs=epochs,
        callbacks=[keep, checkpoints],
        verbose=2,
    )
    model.load_weights(best)
    return checkpoints.history


def run_elsewhere(export: Path, inputs: dict) -> dict[str, np.ndarray]:
    """What an export gives for inputs, arrays or lists of strings by name, in a new process without this package."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        rows = {name: [x.encode() if isinstance(x, str) else x for x in values] for name, values in inputs.items()}
        np.savez(given, **{name: np.asarray(values) for name, values in rows.items()})
        subprocess.run([sys.executable, "-c", ELSEWHERE, export.resolve(), given, found], check=True, cwd=REPOSITORY)
        with np.load(found) as arrays:
            return {name: arrays[name] for name in arrays.files}
