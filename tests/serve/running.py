"""A server on a real socket, in a thread, and a way to ask it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import requests
from PIL import Image

from ovsdino_runtime.serve.metrics import Metrics
from ovsdino_runtime.serve.server import Server, listen
from ovsdino_runtime.serve.service import Service, ServiceOptions


@contextmanager
def running(segmenter, options=ServiceOptions(), *, service=None, **more) -> Iterator[str]:  # noqa: B008 - frozen
    """Serve, and give the address."""
    door, started = listen("127.0.0.1", 0), threading.Event()
    service = service or Service(segmenter, options, Metrics())
    server = Server(service, started.set, **more)
    thread = threading.Thread(target=server.run, args=([door],))
    thread.start()
    try:
        assert started.wait(20)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        door.close()
    assert not thread.is_alive()


def png(photo) -> bytes:
    Image.fromarray(np.asarray(photo)).save(file := BytesIO(), "PNG")
    return file.getvalue()


def ask(address, photo: bytes, **fields) -> requests.Response:
    return requests.post(f"{address}/segment", files={"photo": ("photo", photo)}, data=fields, timeout=60)


def read_png(answer: requests.Response) -> tuple[np.ndarray, list[str]]:
    """Labels and names of an answer."""
    assert answer.status_code == 200, answer.text
    image = Image.open(BytesIO(answer.content))
    image.load()
    return np.asarray(image), json.loads(image.text["ovsdino"])["classes"]
