"""All uploads together, on a real server; and the page's own application has the limit."""

import threading

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ovsdino_runtime.demo.upload_limit import PATH, UploadLimit
from ovsdino_runtime.serve.server import listen


@pytest.fixture
def address(tmp_path):
    """A server that keeps what it gets, 1000 bytes at most."""

    async def keep(request: Request) -> PlainTextResponse:
        body = await request.body()
        (tmp_path / f"{len(list(tmp_path.iterdir()))}").write_bytes(body)
        return PlainTextResponse("kept")

    app = Starlette(routes=[Route(PATH, keep, methods=["POST"]), Route("/other", keep, methods=["POST"])])
    app.add_middleware(UploadLimit, folder=tmp_path, total=1000)
    door = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([door],))
    thread.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    door.close()


def test_uploads_are_kept_until_there_are_too_many(address, tmp_path):
    for size, status in ((600, 200), (500, 413), (400, 200), (1, 413)):
        assert httpx.post(f"{address}{PATH}", content=bytes(size)).status_code == status
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 1000
    answer = httpx.post(f"{address}{PATH}", content=b"x")
    assert answer.json()["error"].startswith("all uploads together may have 0.001 megabytes")
    assert httpx.post(f"{address}/other", content=b"x").status_code == 200
    (tmp_path / "0").unlink()  # an old one is deleted
    assert httpx.post(f"{address}{PATH}", content=bytes(500)).status_code == 200


def test_an_upload_without_a_length_is_refused(address, tmp_path):
    assert httpx.post(f"{address}{PATH}", content=iter([b"x"])).status_code == 411
    assert not list(tmp_path.iterdir())


def test_the_page_has_the_limit(server):
    """Its header alone is sent: more than all uploads may have."""
    host, port = server.removeprefix("http://").split(":")
    import socket

    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2000000000\r\n"
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
