"""The name of a model on a hub: downloaded from a stand-in of it, on this machine."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from .helpers import save_random

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers for one model, "owner/model", whose files are `files`."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_GET(self):
        path = self.path.split("?")[0]
        name = path.removeprefix(f"/owner/model/resolve/{COMMIT}/")
        if path.startswith("/api/models/owner/model/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "1"} for name, data in self.files.items()]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode())
        elif name in self.files:
            self.asked.append(name)
            self.answer(self.files[name], file=True)
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def answer(self, data: bytes, file: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if file:
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args):
        """Nothing is printed."""


@pytest.fixture
def hub(tmp_path):
    """The address of a hub with a model whose folder has a pickle and code, too."""
    save_random("gpt2-gelu", tmp_path / "folder")
    Hub.files = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    Hub.files |= {"pytorch_model.bin": b"pickle", "code.py": b"raise SystemExit"}
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


CODE = """
    import keras_transformer as kt
    print(kt.pretrained.load_model("owner/model").output_shape)
    try:
        kt.pretrained.load_model("owner/nothing")
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_name_is_downloaded_without_pickles_and_code(hub, fresh_process, tmp_path):
    printed = fresh_process(CODE, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "cache"), HF_HUB_DISABLE_XET="1")
    shape, error = printed.split("\n", 1)
    assert shape == "(None, None, 97)"
    assert "no model of that name could be downloaded" in error
    assert "config.json" in Hub.asked and not {"pytorch_model.bin", "code.py"} & set(Hub.asked)
