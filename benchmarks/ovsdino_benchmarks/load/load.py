"""Load a server: clients send one request after another for a given time."""

import http.client
import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ovsdino_benchmarks.results.environment import Environment, command, read_environment
from ovsdino_benchmarks.results.results import Times
from ovsdino_runtime.base.errors import OvsdinoError

PATIENCE = 120.0  # [s] for one answer
LOOK = 1.0  # [s] between looks at the server's memory
LOST = "connection lost"
MEMORY = re.compile(rb"^process_resident_memory_bytes (\S+)", re.MULTILINE)


class LoadError(OvsdinoError):
    """The server does not answer, or it rejects the request."""


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """The load: server, photos, classes, number of clients and duration."""

    url: str
    seconds: float
    clients: int
    photos: tuple[Path, ...]  # in turns
    classes: tuple[str, ...]  # word lists, in turns
    format: str = "png"


@dataclass(frozen=True)
class Minute:
    """Figures of one minute; the last one may be shorter."""

    answers: int
    times: Times | None  # of good answers; None where there were none
    memory: float | None  # [MB] of the server at its end


@dataclass(frozen=True)
class LoadReport:
    """All figures of a run."""

    schema_version: int
    url: str
    model: str
    engine: str
    seconds: float
    clients: int
    photos: tuple[str, ...]
    classes: tuple[str, ...]
    format: str
    times: Times  # of good answers, as the clients saw them
    slowest: float  # [ms]
    throughput: float  # good answers a second
    statuses: dict[str, int]  # an HTTP status or "connection lost" -> how often
    memory_first: float | None  # [MB] of the server, after the first answer; None where it does not say
    memory_last: float | None
    memory_peak: float | None
    minutes: tuple[Minute, ...]
    environment: Environment
    command: str


@dataclass(frozen=True)
class _Answer:
    end: float  # [s] since the start
    took: float  # [ms]
    status: str


def run_load(request: LoadRequest, tell: Callable[[str], object]) -> LoadReport:
    """Load a server and record its responses.

    Args:
        request: the load.
        tell: called with a line of text after each minute.

    Raises:
        LoadError: the server does not answer, or rejects the first request.
    """
    environment = read_environment()
    server = _Server(request.url)
    health = server.health()
    orders = [
        server.order(photo, words, request.format) for photo in request.photos for words in request.classes
    ]
    server.try_out(orders[0])
    answers: list[_Answer] = []
    memory: list[tuple[float, float]] = []
    start = time.monotonic()
    clients = [
        threading.Thread(
            target=_ask_again,
            args=(server, orders[n % len(orders) :] + orders),
            kwargs={"request": request, "start": start, "answers": answers},
        )
        for n in range(request.clients)
    ]
    for client in clients:
        client.start()
    _watch(
        server,
        request.seconds,
        start=start,
        memory=memory,
        tell=lambda minute: tell(_say(answers, memory, minute)),
    )
    for client in clients:
        client.join()
    return _sum_up(request, health, answers=answers, memory=memory, environment=environment)


class _Server:
    """The server under load, seen by a client."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LoadError(f"--url {url}: expected something like http://127.0.0.1:8080")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self.url = url

    def connect(self) -> http.client.HTTPConnection:
        return self._kind(self._host, self._port, timeout=PATIENCE)

    def health(self) -> dict[str, str]:
        try:
            status, body = self._get("/healthz")
            health: dict[str, str] = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LoadError(f"--url {self.url}: no ovsdino server answers there ({error})") from error
        if status != 200:
            raise LoadError(f"--url {self.url}: the server says {status}: {health.get('error', '')}")
        return health

    def memory(self) -> float | None:
        """Return the memory of the server [MB], from its metrics."""
        try:
            match = MEMORY.search(self._get("/metrics")[1])
        except (OSError, http.client.HTTPException):
            return None
        return float(match[1]) / 1e6 if match else None

    def order(self, photo: Path, words: str, kind: str) -> tuple[bytes, dict[str, str]]:
        """Return the body and headers of a request."""
        boundary = uuid.uuid4().hex
        fields = {"classes": words, "format": kind}
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="photo"\r\n\r\n'
        body = b"".join([*parts, head.encode(), photo.read_bytes(), f"\r\n--{boundary}--\r\n".encode()])
        return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    def try_out(self, order: tuple[bytes, dict[str, str]]) -> None:
        connection = self.connect()
        try:
            connection.request("POST", "/segment", *order)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise LoadError(f"--url {self.url}: the first request was not answered ({error})") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise LoadError(f"--url {self.url}: the first request got {answer.status}: {body[:200]!r}")

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _ask_again(
    server: _Server,
    orders: Sequence[tuple[bytes, dict[str, str]]],
    *,
    request: LoadRequest,
    start: float,
    answers: list[_Answer],
) -> None:
    """Send requests, one after another, until the time is over."""
    connection = server.connect()
    for order in cycle(orders):
        begun = time.monotonic()
        if begun - start >= request.seconds:
            break
        try:
            connection.request("POST", "/segment", *order)
            answer = connection.getresponse()
            answer.read()
            status = str(answer.status)
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            status = LOST
        end = time.monotonic()
        answers.append(_Answer(end - start, (end - begun) * 1000, status))
        if status in ("429", "503", LOST):
            time.sleep(0.1)  # as we are asked to
    connection.close()


def _watch(
    server: _Server,
    seconds: float,
    *,
    start: float,
    memory: list[tuple[float, float]],
    tell: Callable[[int], object],
) -> None:
    told = 0
    while (now := time.monotonic() - start) < seconds:
        if (used := server.memory()) is not None:
            memory.append((now, used))
        if now // 60 > told:
            told = int(now // 60)
            tell(told - 1)
        time.sleep(max(0, min(LOOK, seconds - (time.monotonic() - start))))


def _minute(answers: Sequence[_Answer], memory: Sequence[tuple[float, float]], minute: int) -> Minute:
    inside = [answer for answer in answers if answer.end // 60 == minute]
    used = [value for when, value in memory if when // 60 == minute]
    return Minute(len(inside), _times(inside), round(used[-1], 1) if used else None)


def _say(answers: Sequence[_Answer], memory: Sequence[tuple[float, float]], minute: int) -> str:
    latest = _minute(answers, memory, minute)
    took = f", p50 {latest.times.p50:.0f} ms, p99 {latest.times.p99:.0f} ms" if latest.times else ""
    return f"minute {minute + 1}: {latest.answers} answers{took}, server {latest.memory or 0:.0f} MB"


def _times(answers: Sequence[_Answer]) -> Times | None:
    good = [answer.took for answer in answers if answer.status == "200"]
    if not good:
        return None
    p50, p90, p99 = (round(float(value), 1) for value in np.percentile(good, (50, 90, 99)))
    return Times(p50=p50, p90=p90, p99=p99, repeats=len(good))


def _sum_up(
    request: LoadRequest,
    health: dict[str, str],
    *,
    answers: Sequence[_Answer],
    memory: Sequence[tuple[float, float]],
    environment: Environment,
) -> LoadReport:
    times = _times(answers)
    if times is None:
        raise LoadError(f"--url {request.url}: not one good answer in {request.seconds:g} s")
    elapsed = max(answer.end for answer in answers)
    used = [round(value, 1) for _, value in memory]
    return LoadReport(
        schema_version=1,
        url=request.url,
        model=health.get("model", ""),
        engine=health.get("engine", ""),
        seconds=round(elapsed, 1),
        clients=request.clients,
        photos=tuple(photo.name for photo in request.photos),
        classes=request.classes,
        format=request.format,
        times=times,
        slowest=round(max(answer.took for answer in answers if answer.status == "200"), 1),
        throughput=round(times.repeats / elapsed, 2),
        statuses=dict(sorted(Counter(answer.status for answer in answers).items())),
        memory_first=used[0] if used else None,
        memory_last=used[-1] if used else None,
        memory_peak=max(used) if used else None,
        minutes=tuple(_minute(answers, memory, n) for n in range(int(elapsed // 60) + 1)),
        environment=environment,
        command=command(),
    )
