"""Fetch photos whose address a client sends, from public hosts only and within bounds.

A server that reads any address can be made to read its own network. So each host name is resolved once, every
address that it has must be public, the connection goes to that same address, and redirects are checked alike.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import SplitResult, urljoin, urlsplit

from ovsdino_runtime.base.errors import PhotoError, TooLargeError

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # leads to any IPv4 address, local ones included
PIECE = 1 << 16  # [bytes]


def is_public(address: str) -> bool:
    """Whether an IP address is of the internet: not of this machine, its network or its cloud."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    return ip.is_global and inner.is_global and not ip.is_multicast and ip not in NAT64


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """Bounds of what is fetched.

    Args:
        seconds: for all of it, redirects included.
        redirects: how many are followed.
        allowed: decides on an IP address. Choose another function only where all clients are trusted.
    """

    seconds: float = 10.0
    redirects: int = 3
    allowed: Callable[[str], bool] = is_public


DEFAULT = RemoteOptions()


def fetch_public_photo(url: str, *, max_bytes: int, options: RemoteOptions = DEFAULT) -> bytes:
    """Read the file at an address.

    Args:
        url: begins with http:// or https://.
        max_bytes: more are not read.
        options: time, redirects and hosts.

    Raises:
        TooLargeError: the file has more bytes.
        PhotoError: the address is invalid, not public, or does not answer with a file in time.
    """
    end = time.monotonic() + options.seconds
    for _ in range(options.redirects + 1):
        parts = _parse(url)
        channel = _connect(parts, options.allowed, end)
        closing = threading.Timer(max(end - time.monotonic(), 0.001), _shut, [channel])
        closing.daemon = True
        closing.start()  # ends a host that sends a byte now and then
        try:
            answer = _ask(channel, parts)
            if answer.status not in REDIRECTS:
                return _read(answer, max_bytes, end)
            url = urljoin(url, answer.headers.get("Location", ""))
        except (OSError, HTTPException, ValueError) as error:
            late = f"url: not read within {options.seconds:g} s; send the photo itself"
            failed = "url: the host broke off; try again, or send the photo itself"
            raise PhotoError(late if time.monotonic() >= end else failed) from error
        finally:
            closing.cancel()
            channel.close()
    raise PhotoError(f"url: more than {options.redirects} redirects; send the address that they lead to")


def _parse(url: str) -> SplitResult:
    """Split an address.

    Raises:
        PhotoError: it is none of the web, or carries a name and password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise PhotoError("url: not an address; expected https://HOST/PATH") from None
    good = parts.scheme in PORTS and parts.hostname and url.isascii() and url.isprintable() and " " not in url
    if not good or parts.username is not None or port == 0:
        raise PhotoError("url: not an address that is read here; expected https://HOST/PATH")
    return parts


def _connect(parts: SplitResult, allowed: Callable[[str], bool], end: float) -> socket.socket:
    """Connect to a host, all of whose addresses are allowed; with TLS, before the handshake.

    Raises:
        PhotoError: the host is unknown, not public, or does not answer.
    """
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    unreachable = f"url: {host[:60]!r} is no public host that answers; send the photo itself"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(address[0]) for *_, address in found]
        if not addresses or not all(map(allowed, addresses)):
            raise PhotoError(unreachable)
        channel = socket.create_connection((addresses[0], port), max(end - time.monotonic(), 0.001))
        if parts.scheme == "http":
            return channel
        context = ssl.create_default_context()
        return context.wrap_socket(channel, server_hostname=host, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        raise PhotoError(unreachable) from error


def _ask(channel: socket.socket, parts: SplitResult) -> HTTPResponse:
    """Send the request over a connection."""
    if isinstance(channel, ssl.SSLSocket):
        channel.do_handshake()
    connection = HTTPConnection(str(parts.hostname), parts.port)
    connection.sock = channel
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"User-Agent": "ovsdino", "Host": parts.netloc})
    return connection.getresponse()


def _read(answer: HTTPResponse, max_bytes: int, end: float) -> bytes:
    """Read the body of an answer.

    Raises:
        TooLargeError: it has more bytes.
        PhotoError: the answer is no file, or not whole.
    """
    if answer.status != 200:
        raise PhotoError(f"url: the host answers {answer.status}")
    data = bytearray()
    while piece := answer.read(min(PIECE, max_bytes + 1 - len(data))):
        data += piece
        if len(data) > max_bytes:
            raise TooLargeError(f"url: more than {max_bytes / 1e6:g} megabytes; scale the photo down first")
    if answer.length or time.monotonic() >= end:
        raise HTTPException("not whole")
    return bytes(data)


def _shut(channel: socket.socket) -> None:
    with suppress(OSError):  # it has been closed
        socket.socket.shutdown(channel, socket.SHUT_RDWR)  # not TLS's own, which would read on without it
