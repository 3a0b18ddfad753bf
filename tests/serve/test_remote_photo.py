"""Photos by address: public hosts alone, within bounds; and pages of other sites that ask."""

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
    with pytest.raises(PhotoError, match="not read within 1 s"):
        fetch_public_photo(f"{host}/drip", max_bytes=10_000, options=HERE)
    assert time.monotonic() - start < 5  # the host would drip for ten


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a",
        "file:///etc/passwd",
        "//example.org/a",
        "http://",
        "http://user:word@example.org/a",
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
