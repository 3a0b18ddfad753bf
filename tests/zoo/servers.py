"""Small servers on loopback: files with ranges, and as much of the Hub as a fetch and a push use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import close_session

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` by path; the next ``cuts`` answers end after that many bytes of the body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.hashes: dict[str, str] = {}  # announced in place of the true one
        self.cuts: list[int] = []
        self.ranges = True
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.created: list[dict[str, object]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: FileServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.command, self.path, asked))
        data = server.files.get(self.path)
        if data is None:
            self.reply(404, b"")
            return
        mark = f'"{server.hashes.get(self.path) or hashlib.sha256(data).hexdigest()}"'
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", mark) == mark:
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            assert found
            start = int(found[1])
            if start >= len(data):
                self.reply(416, b"")
                return
        self.send_response(206 if start else 200)
        self.send_header("ETag", mark)
        self.send_header("X-Linked-Etag", mark)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if body and server.cuts and len(data) > 1:
            rest = rest[: server.cuts.pop(0)]
            self.close_connection = True
        if body:
            self.wfile.write(rest)

    def do_POST(self) -> None:
        """The Hub's three questions of a push: make the repository, which files how, and the commit."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.command, self.path, None))
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(content))
            self.reply(
                200, json.dumps({"url": f"{self.server.address}/me/beach", "name": "me/beach"}).encode()
            )
        elif "/preupload/" in self.path:
            wanted = json.loads(content)["files"]
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]
            self.say({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    path = f"/me/beach/resolve/main/{line['value']['path']}"
                    self.server.files[path] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.address}/me/beach/commit/{COMMIT}"
            self.reply(
                200, json.dumps({"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None}).encode()
            )
        else:
            self.reply(200, b"{}")

    def say(self, answer: dict[str, object]) -> None:
        self.reply(200, json.dumps(answer).encode())

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        if status == 404 and "/resolve/" in self.path:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[FileServer]:
    """Serve until the end of the block."""
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        close_session()  # the Hub's client keeps connections
        server.shutdown()
        server.server_close()
        thread.join()
