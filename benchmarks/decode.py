"""Speed and memory of generation: the same Transformer in several libraries, side by side.

The models, float32, on the CPU: decoder-only with 6 layers, and encoder-decoder with 6 + 6; width 512, feed-forward
2048, 8 heads, vocabulary 32,000, embedding and output projection tied. 64 new tokens behind a prompt of 8 tokens, or
behind a source of 24: greedy at batch 1 and 32, and with 4 beams at batch 8 (encoder-decoder).

How it is measured. Each engine lives in a fresh process of its own for each case. The processes take turns, one round
each, every other time in reverse, and only one works at a time, so a machine that slows down slows all of them. A call
is what a user of the library writes, from ids to the new tokens of all rows; a step is a 64th of its time, so it
carries a share of reading the prompt or the source. The first two calls (compilation) and the first of each further
round are not counted. Tokens are those returned: with beams, the best sequence's. "peak MiB" is the most resident
memory since the model was built, compilation included, less what was resident then, after the allocator gave back what
it could; "all MiB" is the same peak of the whole process, libraries and weights included. All processes are kept to
`--threads` cores. Measure on an idle machine: other work slows engines unequally, torch most of all, whose threads
wait for one another.

A step at batch 1 has to read the weights once. The column "of bandwidth" is the bytes of weights that a call has to
read (64 steps, and the prompt's or the source's layers once; by formula) over its time, as a fraction of the rate at
which NumPy reads 512 MiB with as many threads, taken in each round, too, the faster of a sum and a maximum.

What is the same, and what is not:
- keras_transformer on TensorFlow and on JAX, CTranslate2 and transformers run the same weights, random ones: GPT-2's
  architecture (pre-norm, tanh GELU, learned positions) and Marian's (post-norm, ReLU, sinusoids; one embedding for
  source and target). Their tokens are compared; a near tie can fall to either side, and the row differs from there on.
- keras_hub runs its GPT-2 and its BART (which normalizes embeddings, has learned positions and GELU) with random
  weights of its own: the size is the same, the tokens are not. `generate` is compiled as `compile()` leaves it.
- Nothing ends early: padding and the end token have zero embeddings, which never win; an engine that returns fewer
  tokens stops the benchmark.

The case `long` runs keras_transformer on TensorFlow alone, decoder-only, batch 1, one call a round. "cache L" is the
generation from a prompt of 8 tokens to a length of L, over its L - 8 steps. "long prompt" is a prompt of 2,000 tokens
and 64 new ones; it is compared with "prefill", the same prompt and one new token, and 64 times a step of "cache 2048".

    python benchmarks/decode.py
    python benchmarks/decode.py --cases decoder-1 --engines keras_transformer ctranslate2 --rounds 1
    python benchmarks/decode.py --cases long
    git worktree add /tmp/before HEAD~20 && python benchmarks/decode.py --before /tmp/before
"""

import ctypes
import gc
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from decode_engines import (
    BEFORE,
    CACHES,
    CASES,
    DECODER_ONLY,
    END,
    ENGINES,
    LONG,
    NEW,
    PADDING,
    PROMPT,
    READ_BYTES,
    Skipped,
    build,
    engine_of,
    weight_bytes,
    write_ctranslate2,
)
from report import QUICK, make_parser, save_results

OURS = "keras_transformer"


# ---- a process ----


def reset_peak() -> None:
    """Give free memory back and forget the peak of this process's resident memory, where the system can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5")


def memory_bytes() -> tuple[int, int]:
    """The memory this process has resident now, and the most it had (where the system does not tell: the most)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    status = Path("/proc/self/status")
    if not status.exists():
        return peak, peak
    sizes = {line.partition(":")[0]: line.split()[1] for line in status.read_text().splitlines() if "kB" in line}
    return 1024 * int(sizes["VmRSS"]), 1024 * int(sizes["VmHWM"])


def work(name: str, case, options, connection, log: str) -> None:
    """The life of an engine's process: build, then make as many calls as asked for, time and again."""
    os.dup2(os.open(log, os.O_WRONLY), sys.stderr.fileno())  # libraries tell much here that is not the table
    try:
        before = time.perf_counter()
        version, functions = build(name, case, options)
        seconds = time.perf_counter() - before
    except Skipped as reason:
        connection.send({"skipped": str(reason)})
        return
    reset_peak()
    idle, _ = memory_bytes()
    connection.send({"version": version, "build_seconds": seconds, "built_bytes": idle})
    while command := connection.recv():
        function, count = command
        seconds = []
        for _ in range(count):
            before = time.perf_counter()
            tokens = functions[function]()
            seconds.append(time.perf_counter() - before)
        if case is not None and function == "generate" and tokens.shape != (case.batch, NEW):
            raise ValueError(f"{name} returned tokens of shape {tokens.shape} in place of {(case.batch, NEW)}.")
        if case is not None and engine_of(name).same_weights and (tokens == END).any() | (tokens == PADDING).any():
            raise ValueError(f"{name} ended a sequence early.")
        peak = memory_bytes()[1]
        connection.send({"seconds": seconds, "tokens": tokens, "peak_bytes": peak - idle, "all_bytes": peak})


class Worker:
    """An engine in its own process."""

    def __init__(self, name: str, case, options):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.log = tempfile.NamedTemporaryFile(mode="r", suffix=".log")
        self.connection, theirs = context.Pipe()
        arguments = (name, case, options, theirs, self.log.name)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.facts = self._receive()
        self.rounds = {}

    def _receive(self) -> dict:
        try:
            return self.connection.recv()
        except EOFError:
            raise SystemExit(f"The engine {self.name} stopped:\n{self.log.read()}") from None

    def measure(self, function: str, calls: int, warm_up: int) -> None:
        """One round: keep the seconds of each call behind the first `warm_up` ones."""
        self.connection.send((function, calls + warm_up))
        answer = self._receive()
        self.rounds.setdefault(function, []).append(answer.pop("seconds")[warm_up:])
        self.facts.update(answer)

    def close(self) -> None:
        """Let the process end."""
        if "skipped" not in self.facts:
            self.connection.send(None)
        self.process.join()
        self.log.close()

    def seconds(self, function: str = "generate") -> list[float]:
        """Of all calls of all rounds."""
        return [second for one in self.rounds[function] for second in one]


def progress(text: str = "") -> None:
    """What is going on, on a line that the next one replaces."""
    print(f"\r{text:<90}" if text else "\r" + " " * 90 + "\r", end="", file=sys.stderr, flush=True)


def start(names, case, options) -> list[Worker]:
    """The processes of these engines, one built after the other, those that cannot run left out with a line."""
    workers = []
    for name in names:
        progress(f"building {name}")
        worker = Worker(name, case, options)
        if "skipped" in worker.facts:
            progress()
            print(f"{name} is left out: {worker.facts['skipped']}.")
            worker.close()
        else:
            workers.append(worker)
    return workers


# ---- the cases ----


def bandwidth_of(worker: Worker) -> float:
    """Bytes a second: the best way's median."""
    return max(READ_BYTES / statistics.median(worker.seconds(function)) for function in worker.rounds)


def measure_bandwidth(worker: Worker) -> None:
    """One round of it."""
    for function in ("sum", "largest"):
        worker.measure(function, 5, warm_up=1)


def measure_case(name: str, options) -> dict:
    """Run the engines of one case in turns."""
    case = CASES[name]
    workers = start(options.engines, case, options)
    (bandwidth,) = start(["bandwidth"], None, options)
    for number in range(options.rounds):
        for worker in workers if number % 2 == 0 else workers[::-1]:  # whoever is first takes some percent longer
            progress(f"{name}, round {number + 1} of {options.rounds}: {worker.name}")
            worker.measure("generate", options.repeats, warm_up=2 if number == 0 else 1)
        measure_bandwidth(bandwidth)
    progress()
    for worker in [*workers, bandwidth]:
        worker.close()

    rate = bandwidth_of(bandwidth)
    size = weight_bytes(case)
    call_bytes = NEW * size["step"] + size["start"]
    ours = next((worker for worker in workers if worker.name == OURS), None)
    reference = next((worker for worker in workers if engine_of(worker.name).same_weights), None)
    engines = {}
    for worker in workers:
        seconds = worker.seconds()
        median = statistics.median(seconds)
        tokens, same = worker.facts["tokens"], engine_of(worker.name).same_weights
        engines[worker.name] = {
            "version": worker.facts["version"],
            "tokens_per_second": case.batch * NEW / median,
            "ms_per_step": 1e3 * median / NEW,
            "median_ms": 1e3 * median,
            "fastest_ms": 1e3 * min(seconds),
            "slowest_ms": 1e3 * max(seconds),
            "round_medians_ms": [1e3 * statistics.median(one) for one in worker.rounds["generate"]],
            "calls": len(seconds),
            "ours_over_this": median / statistics.median(ours.seconds()) if ours else None,
            "fraction_of_bandwidth": call_bytes / median / rate,
            "peak_mib": worker.facts["peak_bytes"] / 2**20,
            "all_mib": worker.facts["all_bytes"] / 2**20,
            "equal_tokens": float((tokens == reference.facts["tokens"]).mean()) if same else None,
            "distinct_tokens": len(set(tokens.flatten().tolist())),
        }
    return {
        "title": case.title,
        "batch": case.batch,
        "bandwidth_gb_per_second": rate / 1e9,
        "weight_bytes_per_step": size["step"],
        "weight_bytes_per_call": call_bytes,
        "tokens_are_compared_with": reference.name if reference else None,
        "engines": engines,
    }


def measure_long(options) -> dict:
    """Long prompts and long caches, of ours."""
    (worker,) = start(["long"], None, options)
    names = ["long prompt", "prefill", *(f"cache {length}" for length in CACHES)]
    for number in range(options.rounds):
        for name in names:
            progress(f"long, round {number + 1} of {options.rounds}: {name}")
            worker.measure(name, 1, warm_up=1 if number == 0 else 0)
    progress()
    worker.close()
    medians = {name: statistics.median(worker.seconds(name)) for name in names}
    steps = {length: medians[f"cache {length}"] / (length - PROMPT) for length in CACHES}
    parts = medians["prefill"] + NEW * steps[CACHES[-1]]
    return {
        "calls": len(worker.seconds("prefill")),
        "long_prompt_tokens": LONG,
        "long_prompt_ms": 1e3 * medians["long prompt"],
        "prefill_ms": 1e3 * medians["prefill"],
        "long_prompt_over_prefill_and_steps": medians["long prompt"] / parts,
        "ms_per_step_by_cache": {length: 1e3 * second for length, second in steps.items()},
        "peak_mib": worker.facts["peak_bytes"] / 2**20,
    }


# ---- what is printed ----


def table(report: dict) -> str:
    """The figures of a case for people."""
    lines = [
        report["title"],
        f"{'engine':<31}{'tokens/s':>10}{'ms a step':>11}{'ours/this':>11}{'of bandwidth':>14}{'peak MiB':>10}"
        f"{'all MiB':>9}{'equal tokens':>14}",
    ]
    for name, row in report["engines"].items():
        ratio = f"{row['ours_over_this']:.2f}" if row["ours_over_this"] else "-"
        fraction = f"{row['fraction_of_bandwidth']:.2f}" if report["batch"] == 1 else "-"
        equal = {None: "-", 1.0: "yes"}.get(row["equal_tokens"], f"{row['equal_tokens'] or 0:.4f}")
        lines.append(
            f"{engine_of(name).title:<31}{row['tokens_per_second']:>10.1f}{row['ms_per_step']:>11.2f}{ratio:>11}"
            f"{fraction:>14}{row['peak_mib']:>10.0f}{row['all_mib']:>9.0f}{equal:>14}"
        )
    megabytes, rate = report["weight_bytes_per_step"] / 1e6, report["bandwidth_gb_per_second"]
    lines.append(
        f"A step reads {megabytes:.0f} MB of weights; this machine reads memory at {rate:.1f} GB/s, so at batch 1 a "
        f"step takes {megabytes / rate:.2f} ms at least.\n"
    )
    return "\n".join(lines)


def long_table(report: dict) -> str:
    """The figures of `long` for people."""
    lines = [
        f"{DECODER_ONLY}, greedy, batch 1, {engine_of(OURS).title}",
        f"{NEW} tokens after a prompt of {report['long_prompt_tokens']}: {report['long_prompt_ms']:.0f} ms; prefill "
        f"{report['prefill_ms']:.0f} ms; ratio to prefill and {NEW} steps with a cache of {CACHES[-1]}: "
        f"{report['long_prompt_over_prefill_and_steps']:.2f}",
        f"{'cache':>6}{'ms a step':>11}{'growth of the step / of the cache':>36}",
    ]
    before = None
    for length, step in report["ms_per_step_by_cache"].items():
        growth = f"{step / before[1] / (length / before[0]):.2f}" if before else "-"
        lines.append(f"{length:>6}{step:>11.2f}{growth:>36}")
        before = length, step
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = make_parser(__doc__, "decode")
    engines, cases = [name for name in ENGINES if name != BEFORE], [*CASES, "long"]
    quick = {"engines": [OURS, "ctranslate2"], "cases": ["decoder-1", "long"]}
    parser.add_argument("--engines", nargs="+", choices=engines, default=quick["engines"] if QUICK else engines)
    parser.add_argument("--cases", nargs="+", choices=cases, default=quick["cases"] if QUICK else cases)
    parser.add_argument("--before", type=Path, help="folder with another version of the package, to compare with")
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 3, help="turns of each (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1 if QUICK else 3, help="calls in a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(options.rounds, options.repeats, options.threads) < 1:
        parser.error("takes positive --rounds, --repeats and --threads.")

    if options.before:
        if not (options.before / "keras_transformer").is_dir():
            parser.error(f"--before takes a folder with a folder keras_transformer, got {options.before}.")
        options.before = options.before.resolve()
        options.engines = [*options.engines, BEFORE]
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # the processes inherit both
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    report = {"seed": options.seed, "threads": options.threads, "rounds": options.rounds}
    report |= {"calls_per_round": options.repeats, "new_tokens": NEW, "cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        for family in {CASES[name].family for name in options.cases if name in CASES}:
            if "ctranslate2" in options.engines:
                arguments = (family, options.seed, options.folder / family)
                writer = multiprocessing.get_context("spawn").Process(target=write_ctranslate2, args=arguments)
                writer.start()
                writer.join()
                if writer.exitcode:
                    raise SystemExit("The model could not be written for CTranslate2.")
        for name in options.cases:
            if name in CASES:
                report["cases"][name] = measure_case(name, options)
                print(table(report["cases"][name]), flush=True)
            else:
                report["long"] = measure_long(options)
                print(long_table(report["long"]), flush=True)
    save_results(options.output, "benchmarks/decode.py", report)


if __name__ == "__main__":
    main()
