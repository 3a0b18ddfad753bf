"""Access control: the host names under which the server answers, and the API keys that it accepts."""

import base64
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from ovsdino_runtime.base.errors import OptionError
from ovsdino_runtime.base.regular_file import regular_file

Message = MutableMapping[str, Any]
App = Callable[[Message, Any, Any], Awaitable[None]]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_KEY = 16  # characters
OPEN = ("/", "/healthz", "/openapi.json", "/docs")  # paths that need no key, as what is below the last


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Conditions that a request must meet.

    Args:
        hosts: allowed names in the Host header; () allows every name. Give the public name if browsers can
            reach the server: it prevents DNS rebinding, where another site points its own name here.
        keys: accepted API keys, sent as ``Authorization: Bearer KEY``, as ``X-API-Key: KEY``, or as the
            password of Basic authentication; () accepts requests without a key.
        origins: sites whose pages may read the answers in a browser (CORS), such as "https://example.org";
            ("*",) allows every site, () allows none.

    Raises:
        OptionError: an origin is none.
    """

    hosts: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for origin in self.origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s@?#]+", origin):
                raise OptionError(
                    f"origin {origin!r} is none; expected SCHEME://HOST[:PORT] without a path, or '*'"
                )


class Access:
    """ASGI middleware that rejects requests for other hosts with 421 and requests without a key with 401."""

    def __init__(self, app: App, options: AccessOptions) -> None:
        self._app = app
        self._hosts = {host.lower() for host in options.hosts}
        self._keys = [key.encode() for key in options.keys]

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        """Pass a request on, or reject it."""
        refused = self._refusal(scope) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, scope: Message) -> JSONResponse | None:
        headers = Headers(scope=scope)
        close = {"Connection": "close"}
        if self._hosts and (host := host_name(headers.get("host", ""))) not in self._hosts:
            error = f"host {host[:60]!r} is not served here; see --allow-host"
            return JSONResponse({"error": error}, 421, close)
        open_path = scope["path"] in OPEN or scope["path"].startswith("/docs/")
        if self._keys and not open_path and not self._has_key(headers):
            error = "a key is needed: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            return JSONResponse({"error": error}, 401, {"WWW-Authenticate": "Bearer", **close})
        return None

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key", "")
        if scheme.lower() == "bearer":
            given = token.strip()
        elif scheme.lower() == "basic":
            given = _password(token.strip())
        return any(hmac.compare_digest(given.encode(), key) for key in self._keys)


def _password(token: str) -> str:
    """Return the password in a token of Basic authentication; empty if there is none."""
    try:
        return base64.b64decode(token, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def host_name(header: str) -> str:
    """Return the name in a Host header, without the port: "::1" for "[::1]:8080"."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def default_hosts(host: str) -> tuple[str, ...]:
    """Return the default host names: those of this machine for a loopback address, else every name."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return (*LOOPBACK, host) if loopback else ()


def read_keys(path: Path) -> tuple[str, ...]:
    """Read API keys, one per line; empty lines and lines that begin with # are skipped.

    Raises:
        OptionError: there is no key, or a key is too short or not ASCII.
        OSError: the file cannot be read.
    """
    text = regular_file(path).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise OptionError(f"{path}: no key in it; write one a line, such as `openssl rand -hex 32` makes")
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_KEY or not key.isascii() or not key.isprintable():
            raise OptionError(f"{path}: key {number} is not {MIN_KEY} or more ASCII characters; make another")
    return keys
