"""How the server behaves under load, in trouble, and when it is told to stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from click.testing import CliRunner

from ovsdino_runtime.serve.cli import serve
from ovsdino_runtime.serve.service import ServiceOptions
from tests.serve.running import ask, png, read_png, running

PHOTO = np.zeros((64, 64, 3), np.uint8) + np.uint8([255, 0, 0])


class Held:
    """An engine that waits to be let go."""

    def __init__(self, engine):
        self.engine, self.description = engine, engine.description
        self.begun, self.go, self.runs = threading.Semaphore(0), threading.Event(), 0

    def run(self, inputs):
        self.runs += 1
        self.begun.release()
        assert self.go.wait(20)
        return self.engine.run(inputs)


@pytest.fixture
def held(segmenter):
    """A segmenter whose vision engine is held."""
    pipeline = segmenter.pipeline
    engine = Held(pipeline.vision)
    pipeline.encode_windows = type(pipeline.encode_windows)(segmenter.bundle.manifest, engine)
    yield segmenter, engine
    engine.go.set()


def test_who_comes_when_all_places_are_taken_is_asked_to_come_again(held):
    segmenter, engine = held
    with running(segmenter, ServiceOptions(waiting=2)) as address, ThreadPoolExecutor(2) as clients:
        first = [clients.submit(ask, address, png(PHOTO), classes="red, blue") for _ in range(2)]
        assert engine.begun.acquire(timeout=10)
        while b"ovsdino_waiting 2.0" not in requests.get(f"{address}/metrics", timeout=9).content:
            time.sleep(0.01)
        answer = ask(address, png(PHOTO), classes="red")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert answer.json() == {"error": "2 requests are waiting already; try again in a moment"}
        assert requests.get(f"{address}/healthz", timeout=9).json()["status"] == "ok"
        engine.go.set()
        assert [one.result().status_code for one in first] == [200, 200]
        assert ask(address, png(PHOTO), classes="red").status_code == 200


def test_a_request_that_takes_too_long_is_ended_and_what_waits_behind_it_too(held):
    segmenter, engine = held
    with running(segmenter, ServiceOptions(seconds=0.5)) as address, ThreadPoolExecutor(3) as clients:
        late = [clients.submit(ask, address, png(PHOTO), classes="red, blue") for _ in range(3)]
        for one in late:
            assert one.result().status_code == 503
            assert one.result().json()["error"] == "not answered within 0.5 s; try again, or ask for less"
        engine.go.set()
        deadline = time.monotonic() + 20
        while ask(address, png(PHOTO), classes="red, blue").status_code != 200:
            assert time.monotonic() < deadline
        assert engine.runs <= 3  # those that only waited were never begun: one held, and those since


def test_a_photo_that_never_arrives_is_not_waited_for(segmenter):
    with running(segmenter, ServiceOptions(seconds=0.4)) as address:
        with send_half(address) as (client, _):
            answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
            assert answer.startswith("HTTP/1.1 408")
            assert "did not arrive in time" in answer
        assert ask(address, png(PHOTO), classes="red").status_code == 200


def test_new_words_are_encoded_once_for_all_who_ask_for_them(segmenter):
    engine, runs = segmenter._text._engine, []

    class Counting:
        description = engine.description

        def run(self, inputs):
            runs.append(inputs["ids"].shape)
            time.sleep(0.05)
            return engine.run(inputs)

    segmenter._text.__dict__["_engine"] = Counting()
    with running(segmenter) as address, ThreadPoolExecutor(6) as clients:
        words = "word901, word902"
        for answer in clients.map(lambda _: ask(address, png(PHOTO), classes=words), range(6)):
            assert answer.status_code == 200
    assert runs == [(4, 2)]  # two words in two templates


def test_a_fault_says_nothing_of_the_inside(held, capfd):
    segmenter, engine = held
    engine.engine = None  # what runs next fails
    engine.go.set()
    with running(segmenter) as address:
        answer = ask(address, png(PHOTO), classes="red")
        assert answer.status_code == 500
        assert answer.json() == {"error": "a fault of the server; its log says more"}
        assert requests.get(f"{address}/healthz", timeout=9).status_code == 200
    assert "AttributeError: 'NoneType'" in capfd.readouterr().err  # the log has the traceback


def test_metrics_count_what_happened(segmenter):
    with running(segmenter) as address:
        for _ in range(3):
            ask(address, png(PHOTO), classes="red")
        ask(address, b"", classes="red")
        text = requests.get(f"{address}/metrics", timeout=9).text
    assert 'ovsdino_requests_total{status="200"} 3.0' in text
    assert 'ovsdino_requests_total{status="415"} 1.0' in text
    assert "ovsdino_request_seconds_count 4.0" in text
    assert 'ovsdino_stage_seconds_count{stage="vision"} 3.0' in text
    assert "ovsdino_waiting 0.0" in text
    if sys.platform == "linux":
        assert re.search(r"process_resident_memory_bytes \d", text)


def test_two_workers_give_the_same_labels(segmenter, reference):
    photos = [
        np.roll(np.eye(60, 90, k, dtype=np.uint8)[..., None] * PHOTO[:60, :1], k, axis=0) for k in range(8)
    ]
    with running(segmenter, ServiceOptions(workers=2)) as address, ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda one: ask(address, png(one), classes="red, black"), photos))
    for photo, answer in zip(photos, answers, strict=True):
        assert np.array_equal(read_png(answer)[0], reference(photo, "red, black").labels)


class send_half:  # noqa: N801 - used like a function
    """A request of which the first half is sent, and its second half."""

    def __init__(self, address):
        host, port = address.removeprefix("http://").split(":")
        request = requests.Request(
            "POST", f"{address}/segment", files={"photo": png(PHOTO)}, data={"classes": "red, blue"}
        ).prepare()
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        raw = f"POST /segment HTTP/1.1\r\nHost: {host}\r\n{head}\r\n".encode() + request.body
        self.first, self.second = raw[:-100], raw[-100:]
        self.client = socket.create_connection((host, int(port)), timeout=20)

    def __enter__(self):
        self.client.sendall(self.first)
        return self.client, self.second

    def __exit__(self, *_):
        self.client.close()


def test_sigterm_answers_what_is_begun_and_sends_others_away(tiny, tmp_path):
    code = "from ovsdino.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", str(tiny), "--port", "0", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OVSDINO_CACHE": str(tmp_path)}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        line = server.stdout.readline()
        address = line.split(" on ")[1].removesuffix("/segment\n")
        with send_half(address) as (client, rest):
            while b"ovsdino_waiting" not in requests.get(f"{address}/metrics", timeout=9).content:
                time.sleep(0.01)
            server.send_signal(signal.SIGTERM)
            while (health := requests.get(f"{address}/healthz", timeout=9)).status_code == 200:
                time.sleep(0.01)
            assert health.json() == {"error": "stopping"}
            answer = ask(address, png(PHOTO), classes="red")
            assert answer.status_code == 503
            assert answer.json() == {"error": "the server is stopping; ask another one"}
            client.sendall(rest)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        assert server.wait(20) == 0
        assert server.stdout.read() == ""
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(serve, ["--port", str(port)])
    assert done.exit_code == 2
    assert done.stderr == f"Error: 127.0.0.1 port {port}: Address already in use; choose another\n"


def test_a_device_takes_one_photo_at_a_time():
    done = CliRunner().invoke(serve, ["--workers", "2", "--device", "cuda"])
    assert done.exit_code == 2
    assert "--workers 2: a cuda device takes one photo at a time; leave it out" in done.stderr
