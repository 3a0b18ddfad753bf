"""What one client sends to stop the server for the others, and how little it achieves."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from ovsdino_runtime.base.errors import OptionError, TooLargeError
from ovsdino_runtime.serve.access import AccessOptions, default_hosts, read_keys
from ovsdino_runtime.serve.connections import ConnectionLimits
from ovsdino_runtime.serve.metrics import Metrics
from ovsdino_runtime.serve.service import Service, ServiceOptions
from ovsdino_runtime.serve.upload import UploadLimits, read_upload
from tests.fuzz.attacks import flat_png
from tests.serve.running import ask, png, running

PHOTO = np.zeros((64, 64, 3), np.uint8) + np.uint8([255, 0, 0])


@pytest.mark.parametrize("field", ["background", "vocabulary", "classes", "background_classes"])
def test_a_long_field_is_refused_at_once(address, field):
    fields = {"classes": "red", field: "1" * 60_000 + "x"}
    if field == "vocabulary":
        del fields["classes"]
    start = time.monotonic()
    answer = ask(address, png(PHOTO), **fields)
    assert time.monotonic() - start < 5
    assert answer.status_code in (200, 422)
    long = ask(address, png(PHOTO), **{"classes": "red", field: "1" * 300_000})
    assert long.status_code == 422
    assert long.json()["error"].startswith(f"{field}: String should have at most")


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((25_000_000, 1), "a longer side of at most 16000 px"),
        ((1, 16_001), "a longer side of at most 16000 px"),
        ((8000, 39), "at most 200 times the shorter one"),
        ((5001, 5000), "at most 25 megapixels"),
    ],
)
def test_a_photo_with_a_long_side_is_not_decoded(size, reason):
    with pytest.raises(TooLargeError, match=reason):
        read_upload(flat_png(*size, bits=1), UploadLimits())
    assert read_upload(flat_png(8000, 40, bits=1), UploadLimits()).photo.shape == (40, 8000, 3)


def connect(address) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_half_a_head_is_waited_for_a_little_and_then_answered(segmenter):
    with running(segmenter, connections=ConnectionLimits(head_seconds=0.4)) as address:
        silent, half = connect(address), connect(address)
        half.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\n")
        for _ in range(3):  # more of the head does not prolong it
            time.sleep(0.1)
            half.sendall(b"X-More: 1\r\n")
        for client in (silent, half):
            answer = ""
            while part := client.recv(4096):
                answer += part.decode()
            assert answer.startswith("HTTP/1.1 408 Request Timeout\r\n")
            assert answer.endswith('{"error": "the request\'s head did not arrive within 0.4 s"}')
            client.close()
        assert ask(address, png(PHOTO), classes="red").status_code == 200


def test_an_address_holds_a_limited_number_of_connections(segmenter):
    limits = ConnectionLimits(per_client=3)
    with running(segmenter, connections=limits) as address:
        held = [connect(address) for _ in range(3)]
        time.sleep(0.2)
        with connect(address) as another:
            assert another.recv(4096).startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        for client in held:
            client.close()
        deadline = time.monotonic() + 10
        while limits.held:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ask(address, png(PHOTO), classes="red").status_code == 200


def test_synonyms_count_as_words(address):
    answer = ask(address, png(PHOTO), classes="|".join(f"word{i}" for i in range(9000)))
    assert answer.status_code == 422
    assert answer.json()["error"] == "got 9000 words: expected at most 8000; ask in several requests"


def test_words_of_a_request_that_was_given_up_are_not_encoded_to_the_end(segmenter):
    engine, batches, slow = segmenter._text._engine, [], threading.Event()
    slow.set()

    class Slow:
        description = engine.description

        def run(self, inputs):
            batches.append(len(inputs["ids"]))
            if slow.is_set():
                time.sleep(0.1)
            return engine.run(inputs)

    segmenter._text.__dict__["_engine"] = Slow()
    many = ", ".join(f"given up {i}" for i in range(1500))  # 3000 phrases: some 47 batches
    with running(segmenter, ServiceOptions(seconds=0.5)) as address, ThreadPoolExecutor(1):
        assert ask(address, png(PHOTO), classes=many).status_code == 503
        time.sleep(0.3)
        stopped = len(batches)
        slow.clear()
        assert ask(address, png(PHOTO), classes="red").status_code == 200  # nothing is in its way
        assert stopped < 12
        assert len(batches) <= stopped + 1


def test_work_stops_when_the_client_hangs_up(segmenter):
    engine, batches = segmenter._text._engine, []

    class Slow:
        description = engine.description

        def run(self, inputs):
            batches.append(len(inputs["ids"]))
            time.sleep(0.1)
            return engine.run(inputs)

    segmenter._text.__dict__["_engine"] = Slow()
    many = ", ".join(f"hung up {i}" for i in range(1500))  # 3000 phrases: some 47 batches, 5 s
    service = Service(segmenter, ServiceOptions(waiting=1), Metrics())
    with running(segmenter, service=service) as address:
        with pytest.raises(requests.Timeout):
            requests.post(
                f"{address}/segment",
                files={"photo": png(PHOTO)},
                data={"classes": many},
                timeout=0.5,
            )
        deadline = time.monotonic() + 2
        while service.active:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stopped = len(batches)
        assert ask(address, png(PHOTO), classes="red").status_code == 200  # the one place is free
        assert len(batches) <= stopped + 2


def test_known_words_do_not_wait_for_new_ones(segmenter):
    engine = segmenter._text._engine
    segmenter(PHOTO, "red, blue")  # these are known from now on
    go_on, began = threading.Event(), threading.Event()

    class Held:
        description = engine.description

        def run(self, inputs):
            began.set()
            assert go_on.wait(20)
            return engine.run(inputs)

    segmenter._text.__dict__["_engine"] = Held()
    with running(segmenter) as address, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(ask, address, png(PHOTO), classes="new word, other word")
        assert began.wait(20)
        assert ask(address, png(PHOTO), classes="red, blue").status_code == 200
        assert not slow.done()
        go_on.set()
        assert slow.result().status_code == 200


def test_far_too_many_words_are_refused_before_they_are_parsed(address, monkeypatch):
    monkeypatch.setattr("ovsdino_runtime.serve.app.choose_classes", None)  # calling it would fail
    answer = ask(address, png(PHOTO), classes="|".join("x" * 17_000))
    assert answer.status_code == 422
    assert answer.json()["error"] == "got some 16999 words: expected at most 8000; ask in several requests"


KEY = "0123456789abcdef0123456789abcdef"


def test_a_key_is_asked_for(segmenter, tmp_path):
    (tmp_path / "keys").write_text(f"# of the lab\n\n{KEY}\n")
    access = AccessOptions(keys=read_keys(tmp_path / "keys"))
    with running(segmenter, access=access) as address:
        form = {"files": {"photo": png(PHOTO)}, "data": {"classes": "red"}, "timeout": 20}
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": f"Basic {KEY}"}):
            answer = requests.post(f"{address}/segment", headers=headers, **form)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "a key is needed" in answer.json()["error"]
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
            assert requests.post(f"{address}/segment", headers=headers, **form).status_code == 200
        assert requests.get(f"{address}/healthz", timeout=9).status_code == 200
        assert requests.get(f"{address}/metrics", timeout=9).status_code == 401


@pytest.mark.parametrize("text", ["", "# none\n", "short", "ä" * 40])
def test_a_file_without_good_keys_is_refused(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(OptionError, match="key"):
        read_keys(tmp_path / "keys")


def test_another_host_is_not_served(segmenter):
    access = AccessOptions(hosts=default_hosts("127.0.0.1"))
    with running(segmenter, access=access, metrics=False) as address:
        for host, status in (("evil.example", 421), ("localhost:1", 200), ("[::1]:80", 200)):
            answer = requests.get(f"{address}/healthz", headers={"Host": host}, timeout=9)
            assert answer.status_code == status
        assert requests.get(f"{address}/metrics", timeout=9).status_code == 404
        assert requests.get(address, timeout=9).json()["description"] == "/openapi.json"
    assert default_hosts("0.0.0.0") == ()


def test_a_hundred_megabytes_are_answered(address):
    answer = ask(address, bytes(100_000_000), classes="red")
    assert answer.status_code == 413
