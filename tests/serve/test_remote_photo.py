"""Photos by address: public hosts alone, within bounds; and pages of other sites that ask."""

import gzip
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
from click.testing import CliRunner

from ovsdino_runtime.base.errors import PhotoError, TooLargeError
from ovsdino_runtime.serve.access import AccessOptions
from ovsdino_runtime.serve.cli import serve
from ovsdino_runtime.serve.remote_photo import RemoteOptions, fetch_public_photo, is_public
from ovsdino_runtime.serve.service import ServiceOptions
from tests.serve.running import png, read_png, running

PHOTO = png(np.zeros((64, 64, 3), np.uint8) + np.uint8([255, 0, 0]))
HERE = RemoteOptions(seconds=1, allowed=lambda _: True)
SITE = "https://photos.example"
KEY = "0123456789abcdef"


class Host(BaseHTTPRequestHandler):
    """Answers with a photo, and in the ways in which a host can be bad."""

    def do_GET(self):
        asked.append((self.path, self.headers["Host"]))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to"))
        elif self.path.startswith("/away/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/away/"))
        elif self.path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(100):
                self.wfile.write(b"X")
                time.sleep(0.1)
            return
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(1 << 16))
        elif self.path == "/endless-headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.wfile.write(b"A: b\r\n" * 1000)
        elif self.path == "/continue":
            while True:
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.01)
        elif self.path == "/slow-body":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"X")
                time.sleep(0.1)
            return
        elif self.path == "/packed":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(BOMB)
            return
        elif self.path == "/none":
            self.send_response(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(PHOTO) + (self.path == "/short")))
            self.end_headers()
            self.wfile.write(PHOTO)
            return
        self.end_headers()

    def log_message(self, *_):
        pass


BOMB = gzip.compress(bytes(50_000_000))  # 50 kB
asked = []


@pytest.fixture
def host():
    asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.handle_error = lambda *_: None  # clients that hang up
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.3.4", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),  # the metadata of clouds
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("::127.0.0.1", False),
        ("64:ff9b:1::7f00:1", False),
        ("2001:0:7f00:1::", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


def test_a_photo_is_fetched_over_redirects(host):
    assert fetch_public_photo(f"{host}/a/b.png?c=d", max_bytes=len(PHOTO), options=HERE) == PHOTO
    assert asked == [("/a/b.png?c=d", host.removeprefix("http://"))]
    assert fetch_public_photo(f"{host}/to/to/to/a", max_bytes=len(PHOTO), options=HERE) == PHOTO


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "the host answers 404"),
        ("/short", "the host broke off"),
        ("/to/to/to/to/a", "more than 3 redirects"),
        ("/away/file:///etc/passwd", "not an address"),
        ("/away/", "more than 3 redirects"),
    ],
)
def test_a_bad_answer_is_one_line(host, path, message):
    with pytest.raises(PhotoError, match=message):
        fetch_public_photo(host + path, max_bytes=10_000, options=HERE)


def test_too_much_and_too_slow_are_ended(host):
    with pytest.raises(TooLargeError, match="more than 5e-05 megabytes"):
        fetch_public_photo(f"{host}/a", max_bytes=50, options=HERE)
    start = time.monotonic()
    for path in ("drip", "slow-body", "continue"):
        with pytest.raises(PhotoError, match="not read within 1 s"):
            fetch_public_photo(f"{host}/{path}", max_bytes=10_000, options=HERE)
    assert time.monotonic() - start < 9  # the host would drip for ten, twice, and go on for ever
    with pytest.raises(TooLargeError, match="more than 1 megabytes"):
        fetch_public_photo(f"{host}/endless", max_bytes=1_000_000, options=HERE)
    with pytest.raises(PhotoError, match="the host broke off"):
        fetch_public_photo(f"{host}/endless-headers", max_bytes=1_000_000, options=HERE)


def test_a_packed_body_is_not_unpacked(host):
    assert fetch_public_photo(f"{host}/packed", max_bytes=100_000, options=HERE) == BOMB


@pytest.mark.parametrize("name", ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "0", "[::]"])
def test_numbers_are_hosts_of_this_network_as_well(host, name):
    port = host.rpartition(":")[2]
    for place in (name, "[::ffff:127.0.0.1]"):
        with pytest.raises(PhotoError, match="is no public host that answers"):
            fetch_public_photo(f"http://{place}:{port}/a", max_bytes=10_000)
    assert asked == []


def test_the_address_that_was_checked_is_the_one_that_is_asked(host, monkeypatch):
    port, real, names = int(host.rpartition(":")[2]), socket.getaddrinfo, []

    def resolve(name, *arguments, **options):
        """Give a public address first, and this machine later, as an attacker would."""
        if name != "photos.example":
            return real(name, *arguments, **options)
        names.append(name)
        return real("127.0.0.1" if len(names) > 1 else "127.0.0.2", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    options = RemoteOptions(seconds=1, allowed="127.0.0.2".__eq__)  # which stands for a public one
    with pytest.raises(PhotoError, match="is no public host that answers"):
        fetch_public_photo(f"http://photos.example:{port}/a", max_bytes=10_000, options=options)
    assert (names, asked) == (["photos.example"], [])  # nothing listens at 127.0.0.2


def test_one_private_address_among_public_ones_is_enough_to_refuse(host, monkeypatch):
    def resolve(_name, port, **_options):
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("93.184.215.14", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(PhotoError, match="is no public host"):
        fetch_public_photo(f"http://both.example:{host.rpartition(':')[2]}/a", max_bytes=10_000)
    assert asked == []


def test_another_address_of_the_host_is_tried(host, monkeypatch):
    real = socket.getaddrinfo

    def resolve(name, port, *arguments, **options):
        names = ("127.0.0.2", "127.0.0.1") if name == "two.example" else (name,)
        return [found for name in names for found in real(name, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"http://two.example:{host.rpartition(':')[2]}/a"
    assert fetch_public_photo(url, max_bytes=len(PHOTO), options=HERE) == PHOTO


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(20))
    start = time.monotonic()
    with pytest.raises(PhotoError, match="is no public host that answers"):
        fetch_public_photo("http://slow.example/a", max_bytes=10_000, options=HERE)
    answered.set()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "place", ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[fd00::1]/", "http://0.0.0.0/"]
)
def test_a_redirect_to_a_private_network_is_not_followed(host, place):
    def allowed(address):
        return address in ("127.0.0.1", "::1") or is_public(address)

    options = RemoteOptions(seconds=1, allowed=allowed)
    with pytest.raises(PhotoError, match="is no public host that answers"):
        fetch_public_photo(f"{host}/away/{place}", max_bytes=10_000, options=options)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a",
        "file:///etc/passwd",
        "//example.org/a",
        "http://",
        "http://user:word@example.org/a",
        "http://user@example.org/a",
        "http://@example.org/a",
        "http://example.org\\@127.0.0.1/",
        "data:image/png;base64,AAAA",
        "unix:///var/run/docker.sock",
        "http://example.org:99999/",
        "http://exa mple.org/",
        "http://example.org/\r\nX: y",
        "gopher://127.0.0.1/",
        "",
    ],
)
def test_what_is_no_address_of_the_web(url):
    with pytest.raises(PhotoError, match="not an address"):
        fetch_public_photo(url, max_bytes=10_000)


def test_this_network_is_not_asked(host):
    for url in (host, host.replace("localhost", "127.0.0.1"), host.replace("localhost", "[::1]")):
        with pytest.raises(PhotoError, match="is no public host that answers"):
            fetch_public_photo(url, max_bytes=10_000)
    only_first = iter([True, False])
    moved = RemoteOptions(seconds=1, allowed=lambda _: next(only_first))
    with pytest.raises(PhotoError, match="is no public host"):
        fetch_public_photo(
            f"{host}/away/{host.replace('localhost', '127.0.0.1')}/a", max_bytes=10_000, options=moved
        )
    assert len(asked) == 1  # the second host was not asked


@contextmanager
def asking(segmenter, remote):
    with running(segmenter, ServiceOptions(remote=remote)) as address:

        def ask(**fields):
            form = {name: (None, value) for name, value in fields.items()}
            return requests.post(f"{address}/segment", files=form, timeout=60)

        yield ask


def test_the_server_reads_an_address_only_where_it_may(segmenter, host):
    with asking(segmenter, None) as ask:
        answer = ask(url=f"{host}/a", classes="red")
        assert (answer.status_code, asked) == (422, [])
        assert answer.json()["error"].startswith("this server reads no addresses")


def test_the_server_labels_a_photo_by_its_address(segmenter, host):
    with asking(segmenter, HERE) as ask:
        labels, names = read_png(ask(url=f"{host}/a", classes="red, blue"))
        assert (labels.shape, names) == ((64, 64), ["red", "blue"])
        assert ask(url=f"{host}/none", classes="red, blue").status_code == 422


def test_a_private_address_is_refused_by_the_server(segmenter, host):
    with asking(segmenter, RemoteOptions()) as ask:
        answer = ask(url=f"{host}/a", classes="red")
        assert (answer.status_code, asked) == (422, [])


def test_pages_of_a_named_site_may_ask(segmenter):
    access = AccessOptions(origins=(SITE,), keys=(KEY,))
    with running(segmenter, access=access) as address:
        before = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
        wanted = {"Access-Control-Request-Headers": "authorization"}
        answer = requests.options(f"{address}/segment", headers=before | wanted, timeout=9)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, SITE)
        refused = requests.post(f"{address}/segment", headers={"Origin": SITE}, timeout=9)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SITE)
        other = requests.options(
            f"{address}/segment", headers=before | {"Origin": "https://other.example"}, timeout=9
        )
        assert "access-control-allow-origin" not in other.headers


def test_no_site_may_ask_by_default(address):
    answer = requests.get(f"{address}/healthz", headers={"Origin": SITE}, timeout=9)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "https://a b", "null"])
def test_what_is_no_origin(origin):
    done = CliRunner().invoke(serve, ["--cors-origin", origin, "--port", "0"])
    assert (done.exit_code, "is none; expected SCHEME://HOST" in done.output) == (2, True)
