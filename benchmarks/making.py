"""What it costs to make a `kt.Generator`: seconds and memory, here and in another version of the package.

Before it generates, a generator judges every operation of the model and compares decoding with the full model. Two
models: the one of README's first example, and a decoder of 12 layers of width 512 with 32,000 tokens. Each figure comes
from a process of its own, which makes one generator that does not count, so that all is loaded, then some that do; the
versions take turns. The memory is the highest of the process less that before the first generator.

    git archive f2cf9ba keras_transformer keras_transformer_runtime | tar -x -C /tmp/before
    python benchmarks/making.py --before /tmp/before
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from report import QUICK, REPOSITORY, make_parser, save_results

MODELS = ("quickstart",) if QUICK else ("quickstart", "12 layers")

MEASURE = """
import json, resource, sys, time
import keras
import keras_transformer as kt

keras.utils.set_random_seed(0)
if sys.argv[1] == "quickstart":
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(32, 64, scale=True)(source))
    for _ in range(2):
        x = kt.EncoderLayer(num_heads=4, intermediate_dim=128, dropout=0.1)(x)
    embedding = kt.TokenEmbedding(32, 64, scale=True)
    y = kt.PositionalEncoding()(embedding(target))
    for _ in range(2):
        y = kt.DecoderLayer(num_heads=4, intermediate_dim=128, dropout=0.1)(y, x)
    model, options = keras.Model([source, target], embedding(y, reverse=True)), {"start_token": 2, "max_length": 9}
else:
    model, options = kt.models.language_model(32_000, num_layers=12), {"max_length": 256}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before, seconds = peak(), []
for _ in range(1 + int(sys.argv[2])):
    start = time.perf_counter()
    kt.Generator(model, end_token=3, **options)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"first": seconds[0], "seconds": seconds[1:], "mib": peak() - before}))
"""


def measure(package: Path, model: str, times: int) -> dict:
    """One process's figures with the package that lies in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(package), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.setdefault("KERAS_BACKEND", "tensorflow")
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, model, str(times)]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, "making")
    parser.add_argument("--before", type=Path, help="folder with another version of the package, to compare with")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 5, help="processes for each model and version")
    parser.add_argument("--times", type=int, default=1 if QUICK else 5, help="generators that count in each process")
    options = parser.parse_args()

    versions = {"now": REPOSITORY, **({"before": options.before.resolve()} if options.before else {})}
    runs = {(model, version): [] for model in MODELS for version in versions}
    for _ in range(options.rounds):
        for model, version in runs:
            runs[model, version].append(measure(versions[version], model, options.times))

    rows = {}
    print(f"{'':12}{'version':>9}{'ms':>9}{'first, ms':>11}{'MiB':>7}{'times before':>14}")
    for model in MODELS:
        rows[model] = {}
        for version in reversed(versions):
            found = runs[model, version]
            row = rows[model][version] = {
                "ms": 1000 * statistics.median(x for run in found for x in run["seconds"]),
                "first_ms": 1000 * statistics.median(run["first"] for run in found),
                "mib": statistics.median(run["mib"] for run in found),
                "seconds_of_rounds": [run["seconds"] for run in found],
            }
            if "before" in versions:
                row["times_before"] = row["ms"] / rows[model]["before"]["ms"]
            print(
                f"{model:12}{version:>9}{row['ms']:9.0f}{row['first_ms']:11.0f}{row['mib']:7.0f}"
                f"{row.get('times_before', float('nan')):14.2f}",
                flush=True,
            )
    save_results(
        options.output,
        "benchmarks/making.py",
        {"seed": 0, "rounds": options.rounds, "times": options.times, "making": rows},
    )


if __name__ == "__main__":
    main()
