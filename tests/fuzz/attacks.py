"""What one client sends, again and again, to stop a server for the others.

python -m tests.fuzz.attacks NAME URL NUMBER: say "ready", attack from a line of standard input to its end.
"""

import http.client
import json
import socket
import struct
import sys
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from threading import Event
from urllib.parse import urlsplit

PAUSE_S = 0.2  # between two attempts: attackers run on the machine that they attack
ANSWER_S = 30.0  # that an attacker waits for an answer
HEADS = 60  # half heads at the same time; the server takes 64 connections of one address
BIG = 100_000_000  # [bytes]
SYNONYMS = 60_000
GIVEN_UP_S = 0.1  # after which an answer is no longer waited for


class Attacker:
    """One client with an address of its own, 127.0.0.x: the server counts connections by address."""

    def __init__(self, url: str, number: int, key: str) -> None:
        parts = urlsplit(url)
        self.key = key
        self._server = (str(parts.hostname), int(parts.port or 80))
        self._source = (f"127.0.1.{number}", 0)
        self.answers: Counter[str] = Counter()

    @contextmanager
    def connection(self, timeout: float = ANSWER_S) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(*self._server, timeout=timeout, source_address=self._source)
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            self.answers[type(error).__name__] += 1
        finally:
            connection.close()

    def socket(self) -> socket.socket:
        return socket.create_connection(self._server, timeout=ANSWER_S, source_address=self._source)

    def post(self, body: bytes, headers: Mapping[str, str], *, timeout: float = ANSWER_S) -> None:
        with self.connection(timeout) as connection:
            connection.request("POST", "/segment", body, {"X-API-Key": self.key, **headers})
            answer = connection.getresponse()
            answer.read()
            self.answers[str(answer.status)] += 1


def form(photo: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """Write a form's body and headers."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="photo"\r\n\r\n'
    body = "".join([*parts, head]).encode() + photo + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def flat_png(width: int, height: int, *, bits: int = 8) -> bytes:
    """Write a black grey photo, small whatever its size."""
    row = bytes(1 + (width * bits + 7) // 8)
    parts = [
        (b"IHDR", struct.pack(">2I5B", width, height, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * height)),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


LONG_PHOTO = flat_png(25_000_000, 1)


def half_heads(attacker: Attacker, photo: bytes, stop: Event) -> None:
    """Hold many connections, and send a head to each that never ends."""
    del photo
    held: list[socket.socket] = []
    while not stop.is_set():
        with suppress(OSError):
            while len(held) < HEADS:
                held.append(attacker.socket())
                held[-1].sendall(b"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        closed = [client for client in held if not _send_more(client)]
        attacker.answers["closed by the server"] += len(closed)
        held = [client for client in held if client not in closed]
        stop.wait(1)
    for client in held:
        client.close()


def _send_more(client: socket.socket) -> bool:
    try:
        client.sendall(b"X-More: 1\r\n")
    except OSError:
        client.close()
        return False
    return True


def long_background(attacker: Attacker, photo: bytes, stop: Event) -> None:
    """Send a threshold of 60,000 digits, on which regular expressions were slow."""
    request = form(photo, classes="red", background="1" * 60_000 + "x")
    _repeat(lambda: attacker.post(*request), stop)


def long_photo(attacker: Attacker, photo: bytes, stop: Event) -> None:
    """Send a photo of 25,000,000 x 1 px in a few kB."""
    del photo
    request = form(LONG_PHOTO, classes="red")
    _repeat(lambda: attacker.post(*request), stop)


def many_synonyms(attacker: Attacker, photo: bytes, stop: Event) -> None:
    """Send one class of 60,000 words, all of them new."""
    numbers = count()

    def attack() -> None:
        word = next(numbers)
        words = "|".join(f"{word}x{n}" for n in range(SYNONYMS))
        attacker.post(*form(photo, classes=words[: 199_000 if word % 2 else None]))

    _repeat(attack, stop)


def given_up(attacker: Attacker, photo: bytes, stop: Event) -> None:
    """Ask for 1,500 new words and hang up before the answer."""
    numbers = count()

    def attack() -> None:
        word = next(numbers)
        words = ", ".join(f"given up {word} {n}" for n in range(1500))
        attacker.post(*form(photo, classes=words), timeout=GIVEN_UP_S)

    _repeat(attack, stop)


def hundred_megabytes(attacker: Attacker, photo: bytes, stop: Event) -> None:
    """Send 100 MB to the end, whatever the server says."""
    del photo
    zeros = bytes(1_000_000)

    def attack() -> None:
        with attacker.connection() as connection:
            connection.putrequest("POST", "/segment")
            connection.putheader("Content-Type", "multipart/form-data; boundary=x")
            connection.putheader("X-API-Key", attacker.key)
            connection.putheader("Content-Length", str(BIG))
            connection.endheaders()
            for _ in range(BIG // len(zeros)):
                if stop.is_set():
                    return
                connection.send(zeros)
            attacker.answers[str(connection.getresponse().status)] += 1

    _repeat(attack, stop)


def wrong_host_and_key(attacker: Attacker, photo: bytes, stop: Event) -> None:
    """Ask by another name, and with a key that is none."""
    body, headers = form(photo, classes="red")
    others = ({"Host": "evil.example"}, {"X-API-Key": "x" * 100})
    _repeat(lambda: [attacker.post(body, headers | other) for other in others], stop)


def _repeat(attack: Callable[[], object], stop: Event) -> None:
    while not stop.is_set():
        attack()
        time.sleep(PAUSE_S)


ATTACKS: dict[str, Callable[[Attacker, bytes, Event], None]] = {
    "half-heads": half_heads,
    "long-background": long_background,
    "long-photo": long_photo,
    "many-synonyms": many_synonyms,
    "given-up": given_up,
    "hundred-megabytes": hundred_megabytes,
    "wrong-host-and-key": wrong_host_and_key,
}


def main(name: str, url: str, number: str, key: str) -> None:
    """Attack until standard input ends, then print what was answered."""
    attacker, stop = Attacker(url, int(number), key), Event()
    photo = flat_png(80, 48)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    thread = threading.Thread(target=ATTACKS[name], args=(attacker, photo, stop))
    thread.start()
    sys.stdin.read()
    stop.set()
    thread.join()
    sys.stdout.write(json.dumps(attacker.answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
