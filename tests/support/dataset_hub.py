"""A server that plays the Hugging Face hub: one data set, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ID = "org/tickets"


class DatasetHub(ThreadingHTTPServer):
    """Serves the files of a folder by name; its branch main stands for `head`."""

    files: Path
    head = "1" * 40
    refusal: tuple[int, str] | None = None
    asked: list[str]

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """Answers the calls of huggingface_hub's snapshot_download."""

    server: DatasetHub

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer the revision, the list of files, or one of them."""
        path = self.path.split("?")[0].strip("/")
        self.server.asked.append(path)
        api = f"api/datasets/{ID}"
        if self.server.refusal is not None:
            status, code = self.server.refusal
            self.reply(b"{}", status, {"X-Error-Code": code, "X-Error-Message": code})
        elif path.startswith(f"{api}/revision/"):
            revision = path.rpartition("/")[2]
            if revision not in ("main", self.server.head):
                self.reply(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
                return
            told = {"id": ID, "sha": self.server.head, "siblings": []}
            self.reply(json.dumps(told).encode())
        elif path.startswith(f"{api}/tree/"):
            files = [file for file in sorted(self.server.files.rglob("*")) if file.is_file()]
            self.reply(json.dumps([self.entry(file) for file in files]).encode())
        elif path.startswith(f"datasets/{ID}/resolve/"):
            commit, name = path.removeprefix(f"datasets/{ID}/resolve/").split("/", 1)
            content = (self.server.files / name).read_bytes()
            tag = hashlib.sha1(content).hexdigest()
            self.reply(content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})
        else:
            self.reply(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def entry(self, file: Path) -> dict[str, object]:
        """A file as the list of a repository names it."""
        return {
            "type": "file",
            "path": str(file.relative_to(self.server.files)),
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send one answer."""
        self.send_response(status)
        named = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in {**named, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def dataset_hub(files: Path) -> Iterator[DatasetHub]:
    """A hub with the files of a folder, until the end of the block."""
    server = DatasetHub(("127.0.0.1", 0), Answer)
    server.files, server.asked = files, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
