"""What examples/ray promises, tried on a cluster of two nodes on this machine: examples/results/ray.json.

    make quickstart                                  the date translator, in translator/
    python examples/ray/measure.py translator        a quarter of an hour on 2 cores

1. 20,000 dates, and lines that cannot be answered, by lines.py, while a worker is killed: the files are those of
   `keras-transformer run`, to the byte.
2. 2,000 requests of 8 clients to serve.py: the texts are those of the command. How many were answered together, and how
   many a second, against one by one.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray 2.60 takes 127.0.0.1 for another address otherwise
sys.path.extend(str(Path(__file__).resolve().parents[2] / name) for name in ("examples", "benchmarks"))

from dates import make_dates
from ray.cluster_utils import Cluster
from report import REPOSITORY, save_results

HERE = Path(__file__).resolve().parent
POISON = {1234: b"\xff\xfe 1999", 5678: b"", 15_000: b"1" * 5000}  # by line: no UTF-8, empty, too long
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]
CLIENTS = 8


@contextlib.contextmanager
def two_nodes(cpus: int = 1) -> Iterator[Cluster]:
    """A cluster of two nodes, with that many CPUs each, for processes with `on(cluster)` in their environment."""
    options = {
        "num_cpus": cpus,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "object_store_memory": 2 * 10**8,
    }
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        cluster.add_node(**options)
        yield cluster
    finally:
        cluster.shutdown()


def on(cluster: Cluster) -> dict[str, str]:
    """The environment of a process that works on the cluster."""
    return {**os.environ, **ONE_THREAD, "RAY_ADDRESS": cluster.address}


def workers(node, name: str = "ray::Map(answer_part)") -> list[int]:
    """Processes of a node that are at a task of that name."""
    (raylet,) = (x.process.pid for x in node.all_processes["raylet"])
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and (path / "cmdline").read_text().startswith(name):
                found.append(int(path.name))
    return found


def kill_a_worker(node, process: subprocess.Popen, output: Path, lines: int) -> int:
    """When the output has that many lines, kill a worker that is at work; returns how many it has then."""
    while process.poll() is None:
        done = output.read_bytes().count(b"\n") if output.exists() else 0
        if done >= lines and (found := workers(node)):
            os.kill(found[0], signal.SIGKILL)
            return done
        time.sleep(0.01)
    raise RuntimeError(f"It ended before there were {lines} lines.")


def ask(requests: list[bytes], clients: int, port: int = PORT) -> list[tuple[int, dict, dict]]:
    """Send requests by so many clients, each one after another; status, headers and body of every response."""

    def client(number: int) -> list:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        found = []
        for request in requests[number::clients]:
            connection.request("POST", "/", request)
            response = connection.getresponse()
            found.append((response.status, dict(response.getheaders()), json.loads(response.read())))
        connection.close()
        return found

    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(client, range(clients)))
    return [found[i % clients][i // clients] for i in range(len(requests))]


def mean_batch(responses: list) -> float:
    """How many texts were answered together: texts by batches, of which a text is the part 1 / size."""
    return len(responses) / sum(1 / int(headers["batch-sizes"]) for _, headers, _ in responses)


@contextlib.contextmanager
def server(cluster: Cluster, *arguments) -> Iterator[None]:
    """serve.py, until the block ends."""
    command = [sys.executable, HERE / "serve.py", *arguments, "--port", PORT]
    process = subprocess.Popen(map(str, command), env=on(cluster), stdout=subprocess.PIPE, text=True)
    try:
        if not any(line.startswith("Serving at") for line in process.stdout):
            raise RuntimeError("serve.py ended before it served.")
        yield
    finally:
        process.terminate()
        process.wait(60)


def measure_lines(export: Path, lines: list[bytes], folder: Path) -> tuple[dict, list[dict]]:
    """lines.py against the command; figures, and the command's answers."""
    (folder / "lines").write_bytes(b"".join(line + b"\n" for line in lines))
    seconds = {}

    def timed(name: str, command: list, cluster: Cluster | None) -> None:
        places = [
            "--input",
            folder / "lines",
            "--output",
            folder / name,
            "--errors",
            folder / f"{name}.jsonl",
            "--json",
        ]
        environment = {**os.environ, **ONE_THREAD} if cluster is None else on(cluster)
        start = time.perf_counter()
        process = subprocess.Popen(map(str, [sys.executable, *command, export, *places]), env=environment)
        if cluster is not None:
            (_, second) = cluster.list_all_nodes()
            print("Killed when there were", kill_a_worker(second, process, folder / name, len(lines) // 3), "lines")
        if process.wait() != 1:  # there are errors
            raise SystemExit(f"{name} ended with status {process.returncode}.")
        seconds[name] = round(time.perf_counter() - start, 1)

    timed("command", ["-m", "keras_transformer_runtime", "run"], None)
    with two_nodes() as cluster:
        timed("ray", [HERE / "lines.py"], cluster)
    for end in ("", ".jsonl"):
        if (folder / f"ray{end}").read_bytes() != (folder / f"command{end}").read_bytes():
            raise SystemExit(f"The files ray{end} and command{end} differ.")
    answers = [json.loads(line) for line in (folder / "ray").read_text().splitlines()]
    refused = [json.loads(line)["line"] for line in (folder / "ray.jsonl").read_text().splitlines()]
    figures = {
        "lines": len(lines),
        "errors": len(refused),
        "lines_with_errors": refused,
        "workers_killed": 1,
        "nodes": 2,
    }
    return {**figures, "seconds": seconds}, answers


def measure_server(export: Path, texts: list[str], answers: list[dict], rounds: int) -> dict:
    """serve.py with 8 clients: texts answered together, and one by one."""
    requests = [json.dumps({"text": text}).encode() for text in texts]
    settings = {"one_by_one": (1, 1), "together": (1, 32), "together_two_replicas": (2, 32)}
    figures = {"requests": len(requests), "clients": CLIENTS, "rounds": rounds}
    for name, (replicas, size) in settings.items():
        seconds, batches, difference = [], [], 0.0
        with two_nodes() as cluster, server(cluster, export, "--replicas", replicas, "--batch-size", size):
            ask(requests[:100], CLIENTS)
            start = time.perf_counter()
            refused = ask([b"{"] * len(requests), CLIENTS)  # what HTTP alone takes
            seconds_of_refusals = time.perf_counter() - start
            if {status for status, _, _ in refused} != {400}:
                raise SystemExit("What is no JSON was not refused.")
            for _ in range(rounds):
                start = time.perf_counter()
                responses = ask(requests, CLIENTS)
                seconds.append(time.perf_counter() - start)
                batches.append(mean_batch(responses))
                for (status, _, body), answer in zip(responses, answers, strict=True):
                    if status != 200 or body["texts"] != answer["texts"] or body["tokens"] != answer["tokens"]:
                        raise SystemExit(f"{name}: {status} {body}, expected {answer}.")
                    difference = max(difference, abs(body["scores"][0] - answer["scores"][0]))
        figures[name] = {
            "replicas": replicas,
            "largest_batch": size,
            "mean_batch": statistics.median(batches),
            "requests_per_second": len(requests) / statistics.median(seconds),
            "requests_per_second_of_rounds": [len(requests) / x for x in seconds],
            "refusals_per_second": len(requests) / seconds_of_refusals,
            "largest_difference_of_scores": difference,
        }
        print(name, figures[name])
    figures["times_as_many"] = figures["together"]["requests_per_second"] / figures["one_by_one"]["requests_per_second"]
    return figures


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="the SavedModel of examples/translate_dates.py")
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "examples" / "results" / "ray.json")
    options = parser.parse_args()
    texts = [example.text for example in make_dates(1, 1, options.lines, seed=options.seed)[2]]
    lines = [POISON.get(number, text.encode()) for number, text in enumerate(texts, 1)]
    with tempfile.TemporaryDirectory() as folder:
        figures, answers = measure_lines(options.export, lines, Path(folder))
    asked = [i for i in range(len(lines)) if i + 1 not in POISON][: options.requests]
    served = measure_server(options.export, [texts[i] for i in asked], [answers[i] for i in asked], options.rounds)
    save_results(options.output, "examples/ray/measure.py", {"seed": options.seed, "lines": figures, "server": served})
    print("Written:", options.output)


if __name__ == "__main__":
    main()
