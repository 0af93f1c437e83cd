"""The pages of examples/browser in headless Chromium, where it, Node.js and the npm packages are there."""

import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import threading

import pytest

PAGE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "browser"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def need_browser() -> None:
    """Skip the module that calls this, and say why, where something is missing."""
    if CHROMIUM is None or shutil.which("node") is None:
        pytest.skip("needs Chromium and Node.js", allow_module_level=True)
    if not all((PAGE / "node_modules" / name).is_dir() for name in ("@litertjs/core", "playwright-core")):
        pytest.skip("needs the npm packages of examples/browser: make test-browser", allow_module_level=True)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the pages, and below models/ the exported files."""

    def __init__(self, *arguments, models, **options):
        self.models = models
        super().__init__(*arguments, directory=str(PAGE), **options)

    def translate_path(self, path):
        return (
            str(self.models / path[len("/models/") :]) if path.startswith("/models/") else super().translate_path(path)
        )

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(models: pathlib.Path):
    """The address of the pages, with a folder of models, while the block runs."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, models=models)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def drive(script: str, page: str, models: pathlib.Path, **order) -> dict:
    """What a script of examples/browser saw on a page, and the page's host."""
    with served(models) as host:
        order = {"chromium": CHROMIUM, "url": f"http://{host}/{page}", **order}
        process = subprocess.run(
            ["node", str(PAGE / script)], input=json.dumps(order), capture_output=True, text=True, timeout=300
        )
    assert process.returncode == 0, process.stderr[-4000:]
    return {**json.loads(process.stdout), "host": host}
