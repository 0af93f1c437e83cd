"""A server's day: threads send mixed requests to one loaded SavedModel; every answer is checked, memory is watched.

A fresh process that can import neither keras nor keras_transformer, with XLA turned off as TensorFlow Serving does on
CPUs, loads a SavedModel and answers the requests of a fixed list once, one after another. Then `--threads` client
threads send `--requests` of them, in an order of their own. A request is 1 to 64 strings of 0 to 30 words, in the
alphabets of several languages and in none. Texts, tokens and lengths must equal those of the first round; scores
may differ by 1e-4 of their size, as sums of floats depend on how threads share the work.

Resident memory is read every hundredth of the way, after the allocator gave back what it could. TensorFlow's thread
pools and the allocator's arenas fill in the beginning, so growth is counted from the first quarter to the end.

The model, unless `--model` names another, is a random encoder-decoder with a SentencePiece tokenizer trained on
generated lines, searched with beams: what leaks does not depend on what it learned.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --model translator
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from report import QUICK, make_parser, save_results

SIZES = (1, 1, 1, 2, 3, 5, 8, 13, 32, 64)
REQUESTS = 3 if QUICK else 60
WORDS = (
    "the quick brown fox jumps over a lazy dog 12 345 2024 müller straße garçon señor москва солнце 東京 今日は "
    "다람쥐 헌 쳇바퀴 שלום مرحبا नमस्ते ١٢ 😀 👩‍👩‍👧 🇰🇷 ☃ <s> </s>"
).split()


def make_strings(randomness: random.Random, count: int) -> list[str]:
    """Lines of 0 to 30 words."""
    return [" ".join(randomness.choices(WORDS, k=randomness.randrange(31))) for _ in range(count)]


def write_model(path: Path, seed: int) -> None:
    """Export a small random encoder-decoder that reads and writes strings."""
    import keras

    import keras_transformer as kt

    keras.utils.set_random_seed(seed)
    lines = make_strings(random.Random(seed), 400)
    source = kt.text.SentencePieceTokenizer.train(lines, 110, character_coverage=1.0)
    target = kt.text.SentencePieceTokenizer(source.model, add_start=True, add_end=True)
    size = source.vocabulary_size
    model = kt.models.transformer(size, size, num_layers=2, dim=64, num_heads=4, intermediate_dim=128)
    generator = kt.Generator(
        model,
        start_token=target.start_id,
        end_token=target.end_id,
        max_length=24,
        strategy=kt.BeamSearch(3, num_return=2),
    )
    kt.export.saved_model(generator, path, source_tokenizer=source, target_tokenizer=target)


def serve(options) -> dict:
    """The process that serves: answers all requests once, then under load, and reports."""
    import ctypes
    import threading
    import time

    import numpy as np
    import tensorflow as tf

    assert not {"keras", "keras_transformer"} & {name for name, module in sys.modules.items() if module is not None}
    framework = ctypes.CDLL(str(Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"))
    framework["_ZN10tensorflow21DisableXlaCompilationEv"]()  # tensorflow::DisableXlaCompilation()
    text_operations = Path(importlib.util.find_spec("tensorflow_text").origin).parent / "python" / "ops"
    tf.load_op_library(str(text_operations / "_fast_sentencepiece_tokenizer.so"))  # the package would import keras
    libc = ctypes.CDLL(None)

    answer = tf.saved_model.load(str(options.model)).signatures["serving_default"]
    randomness = random.Random(options.seed)
    requests = [make_strings(randomness, randomness.choice(SIZES)) for _ in range(REQUESTS)]

    def respond(request):
        return {name: value.numpy() for name, value in answer(text=tf.constant(request)).items()}

    def resident() -> float:
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def equal(found, expected) -> bool:
        return all(
            np.allclose(found[name], value, rtol=1e-4, atol=1e-4)
            if value.dtype.kind == "f"
            else np.array_equal(found[name], value)
            for name, value in expected.items()
        )

    expected = [respond(request) for request in requests]
    lock = threading.Lock()
    state = {"sent": 0, "unequal": 0, "strings": 0}
    memory, errors = [resident()], []

    def client(seed: int) -> None:
        order = random.Random(seed)
        while not errors:
            with lock:
                if state["sent"] == options.requests:
                    return
                state["sent"] += 1
                if state["sent"] % max(1, options.requests // 100) == 0:
                    memory.append(resident())
            index = order.randrange(REQUESTS)
            try:
                same = equal(respond(requests[index]), expected[index])
            except Exception as error:  # whatever it is, it must reach the report
                errors.append(f"{type(error).__name__}: {error}")
                return
            with lock:
                state["unequal"] += not same
                state["strings"] += len(requests[index])

    begin = time.perf_counter()
    threads = [threading.Thread(target=client, args=(options.seed + i,)) for i in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    memory.append(resident())
    if errors:
        raise SystemExit(f"A request failed: {errors[0]}")
    return {
        "strings": state["strings"],
        "unequal_answers": state["unequal"],
        "seconds": round(seconds, 1),
        "rss_mib_first": round(memory[0], 1),
        "rss_mib_after_a_quarter": round(memory[len(memory) // 4], 1),
        "rss_mib_last": round(memory[-1], 1),
        "rss_mib": [round(value, 1) for value in memory],
    }


def main() -> None:
    """Export unless told a model, serve in a fresh process, print, write the JSON."""
    parser = make_parser(__doc__, "serve_load")
    parser.add_argument("--model", type=Path, help="a SavedModel of strings (default: makes one)")
    parser.add_argument("--requests", type=int, default=20 if QUICK else 10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # the fresh process
    options = parser.parse_args()
    if min(options.requests, options.threads) < 1:
        parser.error("takes positive --requests and --threads.")
    if options.serve:
        print(json.dumps(serve(options)))
        return

    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = Path(folder) / "model"
            write_model(model, options.seed)
        program = "import runpy, sys; sys.modules.update(keras=None, keras_transformer=None); sys.argv.pop(0); "
        program += "runpy.run_path(sys.argv[0], run_name='__main__')"
        arguments = ["--serve", "--model", model, "--requests", options.requests]
        arguments += ["--threads", options.threads, "--seed", options.seed]
        process = subprocess.run(
            [sys.executable, "-c", program, __file__, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    if process.returncode:
        raise SystemExit("The serving process failed.")
    figures = json.loads(process.stdout)
    grown = figures["rss_mib_last"] - figures["rss_mib_after_a_quarter"]
    print(
        f"{options.requests} requests of {figures['strings']} strings by {options.threads} threads in "
        f"{figures['seconds']} s: {figures['unequal_answers']} answers differ.\n"
        f"Resident: {figures['rss_mib_first']} MiB at first, {figures['rss_mib_after_a_quarter']} after a quarter, "
        f"{figures['rss_mib_last']} at last ({grown:+.1f} since the quarter)."
    )
    figures = {"seed": options.seed, "requests": options.requests, "threads": options.threads} | figures
    save_results(options.output, "benchmarks/serve_load.py", figures)
    if figures["unequal_answers"]:
        raise SystemExit("Answers differ.")


if __name__ == "__main__":
    main()
