"""Speed, size and memory of exported generation, against CTranslate2 and llama.cpp, with the same weights.

The model of `decode.py`, decoder-only: 6 layers, width 512, vocabulary 32,000, random weights; 64 new tokens behind a
prompt of 8. Measured as there: a fresh process for each engine, turns, the median call. The SavedModel runs without
XLA, as TensorFlow Serving runs it; "keras_transformer, TensorFlow" is the same loop under XLA, from Python. LiteRT's
int8 and CTranslate2's are both weights in int8 with products in int8; their tokens are not compared with float32's, as
random weights have near ties all over. "first s" is the time of a fresh process from its first import to the first
token; where an engine answers whole sequences only, to the end of the first answer. "all MiB" is the most resident
memory of the process, libraries included.

LiteRT-LM runs the bundle by its own engine, which takes and gives texts: each word is a character. llama.cpp runs the
weights as GPT-2, in float32 and in Q8_0, where llama-cpp-python is installed; what is not is left out.

    python benchmarks/deploy.py
    python benchmarks/deploy.py --cases decoder-1 --engines litert_int8 ctranslate2_int8
"""

import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path

from decode import progress, start
from decode_engines import CASES, DECODER_ONLY, NEW, engine_of, write_ctranslate2, write_exports, write_gguf
from report import QUICK, make_parser, save_results

ENGINES = {
    "decoder-1": [
        "keras_transformer",
        "saved_model",
        "litert",
        "litert_int8",
        "litert_step",
        "litert_lm",
        "litert_lm_int8",
        "llama_cpp",
        "llama_cpp_q8",
        "ctranslate2",
        "ctranslate2_int8",
    ],
    "decoder-32": ["keras_transformer", "saved_model", "ctranslate2"],
}
RATIOS = {  # what is compared with what
    "decoder-1": [
        ("litert", "ctranslate2"),
        ("litert_int8", "ctranslate2_int8"),
        ("saved_model", "ctranslate2"),
        ("litert_lm", "litert_step"),
        ("litert_lm", "llama_cpp"),
        ("litert_lm_int8", "llama_cpp_q8"),
        ("litert", "keras_transformer"),
        ("saved_model", "keras_transformer"),
    ],
    "decoder-32": [("saved_model", "ctranslate2"), ("saved_model", "keras_transformer")],
}


def write(options) -> None:
    """Write the model in all forms; in a process of its own, which takes TensorFlow with it when it ends."""
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    write_exports(CASES["decoder-1"], options)
    write_gguf(options.seed, options.folder)
    write_ctranslate2(DECODER_ONLY, options.seed, options.folder / DECODER_ONLY)


def size_mib(path: Path) -> float:
    """Of a file or a folder."""
    files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
    return sum(x.stat().st_size for x in files) / 2**20


def measure_case(name: str, options) -> dict:
    """Run the engines of one case in turns."""
    engines = [engine for engine in ENGINES[name] if engine in (options.engines or ENGINES[name])]
    case = CASES[name]
    workers = []
    for engine in engines:
        for worker in start([engine], case, options):
            worker.measure("first", 1, warm_up=0)
            workers.append(worker)
    for number in range(options.rounds):
        for worker in workers:
            progress(f"{name}, round {number + 1} of {options.rounds}: {worker.name}")
            worker.measure("generate", options.repeats, warm_up=2 if number == 0 else 1)
    progress()
    for worker in workers:
        worker.close()
    rows = {}
    for worker in workers:
        median = statistics.median(worker.seconds())
        rows[worker.name] = {
            "version": worker.facts["version"],
            "tokens_per_second": case.batch * NEW / median,
            "ms_per_step": 1e3 * median / NEW,
            "round_medians_ms": [1e3 * statistics.median(one) for one in worker.rounds["generate"]],
            "first_token_seconds": worker.facts["build_seconds"] + worker.seconds("first")[0],
            "all_mib": worker.facts["all_bytes"] / 2**20,
        }
    speed = {engine: row["tokens_per_second"] for engine, row in rows.items()}
    pairs = [pair for pair in RATIOS[name] if set(pair) <= set(speed)]
    ratios = {f"{ours} / {theirs}": speed[ours] / speed[theirs] for ours, theirs in pairs}
    return {"title": case.title, "engines": rows, "ratios": ratios}


def table(report: dict) -> str:
    """The figures of a case for people."""
    lines = [report["title"], f"{'engine':<31}{'tokens/s':>10}{'ms a step':>11}{'first s':>9}{'all MiB':>9}"]
    lines += [
        f"{engine_of(name).title:<31}{row['tokens_per_second']:>10.1f}{row['ms_per_step']:>11.2f}"
        f"{row['first_token_seconds']:>9.1f}{row['all_mib']:>9.0f}"
        for name, row in report["engines"].items()
    ]
    lines += [f"  {name}: {ratio:.2f}" for name, ratio in report["ratios"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Export, measure, print the tables, write the JSON."""
    parser = make_parser(__doc__, "deploy")
    parser.add_argument("--cases", nargs="+", choices=list(ENGINES), default=["decoder-1"] if QUICK else list(ENGINES))
    parser.add_argument("--engines", nargs="+", choices=ENGINES["decoder-1"], default=None, help="default: all")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 3, help="turns of each (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1 if QUICK else 3, help="calls in a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    report = {"seed": options.seed, "threads": options.threads, "rounds": options.rounds, "new_tokens": NEW}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        progress("exporting")
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(options,))
        writer.start()
        writer.join()
        progress()
        if writer.exitcode:
            raise SystemExit("The model could not be exported.")
        report["size_mib"] = {path.name: round(size_mib(path), 1) for path in sorted(options.folder.iterdir())}
        print("size in MiB: " + ", ".join(f"{name} {size}" for name, size in report["size_mib"].items()))
        report["cases"] = {}
        for name in options.cases:
            report["cases"][name] = measure_case(name, options)
            print(table(report["cases"][name]), flush=True)
    save_results(options.output, "benchmarks/deploy.py", report)


if __name__ == "__main__":
    main()
