"""Any export behind HTTP, by Ray Serve: replicas on all machines of a cluster, and texts that are answered together.

    python examples/ray/serve.py EXPORT --replicas 2
    curl -d '{"text": "23 March 2026"}' http://127.0.0.1:8000/

What is asked is JSON, and so is each answer, which is what `keras-transformer run --json` writes of a line:

    {"text": "..."}              {"texts": ["best", "second"], "tokens": ..., "lengths": ..., "scores": ...}
    {"texts": ["...", "..."]}    {"answers": [{"texts": ...}, {"error": "..."}]}
    {"inputs": ...}              as "text", for exports that take something else: ids, or an object of inputs by name

With "seed" a request is answered by itself, as `runner(texts, seed=seed)` would. POST to /stream hands out the answer
to one text in pieces as they come, as server-sent events, if the export streams. What is wrong with a request stands in
{"error": "..."} with status 400; a text that cannot be answered keeps no other from its answer.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import keras_transformer_runtime
from keras_transformer_runtime.answering import Answer, Answerer, one_line
from keras_transformer_runtime.describing import as_text, describe

EXPECTED = '{"text": "..."}, {"texts": ["...", ...]} or {"inputs": ...}, and "seed" if the export draws'
# What TensorFlow and ONNX call an input that their graph refuses; what else is no ValueError is no fault of the input.
REFUSED_IN_A_GRAPH = ("InvalidArgumentError", "InvalidArgument")


class Refusal(Exception):
    """What is wrong with a request, and the status that says so."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class Export:
    """A replica: one export, and a queue of texts for it.

    Args:
        path: Of the export.
        batch_size: How many texts are answered together, at most; None: as many as suit the export.
        wait: Seconds that a batch waits for more texts.
        threads: How many it computes with.
        longest: Bytes that a request may have.
    """

    def __init__(self, path: str, batch_size: int | None, wait: float, threads: int, longest: int):
        os.environ |= {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": str(threads)}
        self.runner = keras_transformer_runtime.load(path, num_threads=threads)
        self.longest = longest
        # Each replica draws numbers of its own, and other ones for each batch.
        self.answerer = Answerer(self.runner, "json", random.getrandbits(32))
        self.batches = itertools.count()
        size = batch_size or self.answerer.batch_size
        if self.answerer.seed is not None:  # a file has one seed for its rows: with more, some would draw the same
            size = min(size, self.answerer.rows_of_file or size)
        self.answer.set_max_batch_size(size)
        self.answer.set_batch_wait_timeout_s(wait)

    async def __call__(self, request: Request) -> Response:
        try:
            if request.url.path not in ("/", "/stream"):
                raise Refusal(f"There are / and /stream, got {request.url.path}.", 404)
            if request.method != "POST":
                raise Refusal(f"POST what is asked, got {request.method}.", 405)
            values, is_one, seed = self.read(await request.body())
            if request.url.path == "/stream":
                return await self.stream(values, seed)
            return await self.respond(values, is_one, seed)
        except Refusal as error:
            return JSONResponse({"error": str(error)}, error.status)

    def read(self, body: bytes) -> tuple[list, bool, int | None]:
        """What a request asks for: texts or inputs, whether it is one and not a list, and the seed."""
        if len(body) > self.longest:
            raise Refusal(f"A request has at most {self.longest} bytes, got {len(body)}.", 413)
        if not body:
            raise Refusal(f"The request is empty. Expected {EXPECTED}.")
        try:
            request = json.loads(body.decode())
        except UnicodeDecodeError as error:
            raise Refusal(f"The request is no UTF-8: {error}.") from error
        except (ValueError, RecursionError) as error:
            raise Refusal(f"The request is no JSON: {error}.") from error
        names = sorted(request) if isinstance(request, dict) else []
        kinds = [name for name in names if name != "seed"]
        if len(kinds) != 1 or kinds[0] not in ("text", "texts", "inputs"):
            got = f"an object with {names}" if isinstance(request, dict) else type(request).__name__
            raise Refusal(f"Expected {EXPECTED}, got {got}.")
        (kind,), seed = kinds, request.get("seed")
        value = request[kind]
        values = value if kind == "texts" else [value]
        type_, what = ((list, dict), "a list or an object") if kind == "inputs" else (str, "a text")
        if kind == "texts" and not (isinstance(value, list) and value):
            raise Refusal(f'"texts" is a list of at least one text, got {json.dumps(value)[:50]}.')
        for wrong in (x for x in values if not isinstance(x, type_)):
            raise Refusal(f'"{kind}": expected {what}, got {json.dumps(wrong)[:50]}.')
        if "seed" in names and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise Refusal(f'"seed" is an integer, got {json.dumps(seed)[:50]}.')
        if "seed" in names and not (self.runner.is_generator and self.runner.metadata["takes_seed"]):
            raise Refusal('The export draws no random numbers: it takes no "seed".')
        return values, kind != "texts", seed

    async def respond(self, values: list, is_one: bool, seed: int | None) -> Response:
        """Answers to all values, each from its place in a batch with whatever else was asked at that time."""
        if seed is None:
            found = await asyncio.gather(*map(self.answer, values))
        else:
            found = await asyncio.to_thread(self.answers_to, values, Answerer(self.runner, "json", seed), 0)
        answers = [answer for answer, _ in found]
        parts = [{"error": x.message} if x.error is not None else x.record for x in answers]
        wrong = [(number, x) for number, x in enumerate(answers, 1) if x.error is not None]
        status = max((status_of(x.error) for _, x in wrong), default=200)
        headers = {"batch-sizes": ",".join(str(size) for _, size in found)}
        if is_one:
            return JSONResponse(parts[0], status, headers)
        error = {"error": f"text {wrong[0][0]}: {wrong[0][1].message}"} if wrong else {}
        return JSONResponse({**error, "answers": parts}, status, headers)

    @serve.batch
    async def answer(self, values: list) -> list[tuple[Answer, int]]:
        """Answers to values of any number of requests, and how many they were."""
        return await asyncio.to_thread(self.answers_to, values, self.answerer, next(self.batches))

    def answers_to(self, values: list, answerer: Answerer, batch: int) -> list[tuple[Answer, int]]:
        """What the answerer says, but to an empty text."""
        lines = [b"" if value == "" else json.dumps(value).encode() for value in values]
        return [(answer, len(lines)) for answer in answerer(lines, batch)]

    async def stream(self, values: list, seed: int | None) -> Response:
        """The answer to one text, in pieces."""
        if len(values) != 1 or values == [""]:
            got = "an empty one" if values == [""] else f"{len(values)} texts"
            raise Refusal(f"A stream is of one text that is not empty, got {got}.")
        answerer = self.answerer if seed is None else Answerer(self.runner, "json", seed)
        pieces = answerer.stream(json.dumps(values[0]), 0 if seed is not None else next(self.batches))
        try:
            answerer.check_streams()
            first = await asyncio.to_thread(next, pieces, "")  # what is wrong with the text comes out here
        except Exception as error:
            raise Refusal(one_line(error), status_of(error)) from error
        return StreamingResponse(events(first, pieces), media_type="text/event-stream")


def status_of(error: Exception) -> int:
    """400 if the input is to blame, or 500."""
    return 400 if isinstance(error, ValueError) or type(error).__name__ in REFUSED_IN_A_GRAPH else 500


def events(first: str, pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a text as server-sent events; the last is "end", or "error" where it broke off."""
    try:
        for piece in itertools.chain([first], pieces):
            if piece:
                yield f"data: {json.dumps({'text': piece})}\n\n"
        yield "event: end\ndata: {}\n\n"
    except Exception as error:
        yield f"event: error\ndata: {json.dumps({'error': one_line(error)})}\n\n"


def main() -> None:
    """Serve until Ctrl+C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "export", metavar="EXPORT", type=Path, help="what kt.export wrote, on every machine at this path"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where it listens (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--replicas", type=int, default=1, help="how many processes answer (default: 1)")
    parser.add_argument("--cpus", type=int, default=1, help="threads of each (default: 1)")
    parser.add_argument("--batch-size", type=int, help="texts at a time, at most (default: the export's, or 32)")
    parser.add_argument(
        "--wait", type=float, default=0.01, help="seconds a batch waits for more texts (default: %(default)s)"
    )
    parser.add_argument("--longest", type=int, default=2**20, help="bytes of a request (default: %(default)s)")
    options = parser.parse_args()
    if min(options.replicas, options.cpus, options.batch_size or 1, options.longest) < 1 or options.wait < 0:
        parser.error("--replicas, --cpus, --batch-size and --longest are at least 1, and --wait is not negative.")
    try:
        print(as_text(describe(options.export)))
    except (ValueError, OSError) as error:
        sys.exit(f"serve.py: error: {one_line(error)}")
    ray.init(log_to_driver=False, logging_level="warning")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C, and not as Ray has set it
    try:
        if serve.status().applications:
            sys.exit("serve.py: error: This cluster serves already: end that first, or start this on another cluster.")
        check_free(options.host, options.port)
        with contextlib.suppress(KeyboardInterrupt):
            serve_until_interrupted(options)
        serve.shutdown()
    finally:
        ray.shutdown()


def check_free(host: str, port: int) -> None:
    """Exit with a message if nothing can listen there: Ray says so in eighty lines."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            sys.exit(
                f"serve.py: error: It cannot listen on {host}, port {port}: {error}. Give another --port or --host."
            )


def serve_until_interrupted(options: argparse.Namespace) -> None:
    """Start the replicas, and wait."""
    serve.start(proxy_location="HeadOnly", http_options={"host": options.host, "port": options.port})
    deployment = serve.deployment(
        Export,
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": options.cpus},
        max_ongoing_requests=max(100, 4 * (options.batch_size or 32)),
    )
    path = str(options.export.resolve())
    serve.run(deployment.bind(path, options.batch_size, options.wait, options.cpus, options.longest))
    print(f"Serving at http://{options.host}:{options.port}/ until Ctrl+C", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
