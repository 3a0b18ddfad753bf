"""Fetch photos from addresses that clients send: public hosts only, with limits on size, time and redirects.

A server that fetches any address can be used to read its own network. Therefore each host name is resolved
once, all its IP addresses must be public, the connection goes to one of the addresses that were checked, and
each redirect is checked in the same way. A compressed body is not unpacked.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import SplitResult, urljoin, urlsplit

from ovsdino_runtime.base.errors import PhotoError, TooLargeError

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
PIECE = 1 << 16  # [bytes]


def is_public(address: str) -> bool:
    """Tell whether an IP address is public: not of this machine, its network or its cloud.

    The reserved block ``::/8`` holds IPv4 addresses in other forms, also local ones: ``::127.0.0.1`` and
    ``64:ff9b::127.0.0.1``.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    special = ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False)
    return ip.is_global and inner.is_global and not special


class UnreachableError(PhotoError):
    """A host is unknown, not public, or does not answer."""


@dataclass(frozen=True)
class TrustedHost:
    """A server of the operator's, which may be local.

    Args:
        address: ``SCHEME://HOST[:PORT]``; a path behind it plays no role.
        headers: sent to this host alone, such as a key.
    """

    address: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def has(self, parts: SplitResult) -> bool:
        """Tell whether an address has this scheme, host and port."""
        return _origin(parts) == _origin(urlsplit(self.address))


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """Limits of a download.

    Args:
        seconds: time limit, including redirects [s].
        redirects: largest number of redirects.
        allowed: tells whether an IP address may be read. Choose another function only if you trust all
            clients.
        trusted: a host that may be read whatever its IP address is.
    """

    seconds: float = 10.0
    redirects: int = 3
    allowed: Callable[[str], bool] = is_public
    trusted: TrustedHost | None = None

    def is_trusted(self, parts: SplitResult) -> bool:
        """Tell whether an address belongs to the trusted host."""
        return self.trusted is not None and self.trusted.has(parts)


DEFAULT = RemoteOptions()


def fetch_public_photo(url: str, *, max_bytes: int, options: RemoteOptions = DEFAULT) -> bytes:
    """Download a file from a public host.

    Args:
        url: an http or https address.
        max_bytes: largest size of the file [bytes].
        options: limits of time, redirects and hosts.

    Raises:
        TooLargeError: the file has more than ``max_bytes``.
        PhotoError: the address is invalid or not public, or its host sends no file in time.
    """
    end = time.monotonic() + options.seconds
    for _ in range(options.redirects + 1):
        parts = _parse(url)
        trusted = options.trusted if options.is_trusted(parts) else None
        channel = _connect(parts, options.allowed if trusted is None else (lambda _: True), end)
        closing = threading.Timer(max(end - time.monotonic(), 0.001), _shut, [channel])
        closing.daemon = True
        closing.start()  # stops a host that sends a byte now and then
        try:
            with _ask(channel, parts, {} if trusted is None else trusted.headers) as answer:
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
        PhotoError: it is not an http or https address, or holds a user name and password.
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
    """Connect to a host if all its IP addresses are allowed; TLS's handshake follows later.

    Raises:
        UnreachableError: the host is unknown, not public, or does not answer.
    """
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    unreachable = f"url: {host[:60]!r} is no public host that answers; send the photo itself"
    try:
        addresses = _resolve(host, port, end)
        if not addresses or not all(map(allowed, addresses)):
            raise UnreachableError(unreachable)
        channel = _connect_to_any(addresses, port, end)
        if parts.scheme == "http":
            return channel
        context = ssl.create_default_context()
        return context.wrap_socket(channel, server_hostname=host, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:  # ValueError: not a valid host name
        raise UnreachableError(unreachable) from error


def _resolve(host: str, port: int, end: float) -> list[str]:
    """Return the IP addresses of a host.

    The system's resolver has no time limit of ours, so a thread of its own waits for it.

    Raises:
        OSError: the host is unknown, or its name server does not answer in time.
        UnicodeError: not a valid host name.
    """
    results: list[list[str] | Exception] = []

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            results.append(list(dict.fromkeys(str(address[0]) for *_, address in found)))
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            results.append(error)

    thread = threading.Thread(target=resolve, name="resolve", daemon=True)
    thread.start()
    thread.join(max(end - time.monotonic(), 0.001))
    if not results:
        raise TimeoutError(f"{host}: its name server does not answer")
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _connect_to_any(addresses: Sequence[str], port: int, end: float) -> socket.socket:
    """Connect to the first address that answers; these are IP addresses, no names that are resolved again.

    Raises:
        OSError: none answers in time.
    """
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), max(end - time.monotonic(), 0.001))
    return socket.create_connection((addresses[-1], port), max(end - time.monotonic(), 0.001))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


def _ask(channel: socket.socket, parts: SplitResult, headers: Mapping[str, str]) -> HTTPResponse:
    """Send the request over a connection."""
    if isinstance(channel, ssl.SSLSocket):
        channel.do_handshake()
    connection = HTTPConnection(str(parts.hostname), parts.port)
    connection.sock = channel
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"User-Agent": "ovsdino", "Host": parts.netloc, **headers})
    return connection.getresponse()


def _read(answer: HTTPResponse, max_bytes: int, end: float) -> bytes:
    """Read the body of a response.

    Raises:
        TooLargeError: the body has more than ``max_bytes``.
        PhotoError: the response is not a file, or incomplete.
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
    with suppress(OSError):  # already closed
        socket.socket.shutdown(
            channel, socket.SHUT_RDWR
        )  # not TLS's own shutdown, which would wait for the host
