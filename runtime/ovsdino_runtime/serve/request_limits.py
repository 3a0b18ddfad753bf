"""Limits on a request before its body is read: admission, size, and time to arrive."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ovsdino_runtime.serve.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

FORM, JSON = "multipart/form-data", "application/json"
HINTS = {FORM: f"expected {FORM}, as curl -F sends it", JSON: f"expected {JSON}"}
MORE_BYTES = 2_000_000  # of a request, for the words and the form around a photo
DISCARDED = 12  # times that much is read on: a client that is still sending gets to read the answer
RETRY = {"Retry-After": "1"}


def refusal(status: int, error: str) -> JSONResponse:
    """Build an error response that closes the connection, because the body may be unread."""
    retry = RETRY if status in (429, 503) else {}
    return JSONResponse({"error": error}, status, {"Connection": "close", **retry})


class RequestLimiter:
    """ASGI middleware for one path: count its requests, and reject those that exceed a limit.

    Args:
        app: the wrapped application.
        path: path of the requests.
        service: holds the limits and whether it accepts requests.
        kind: content type of the requests.
    """

    def __init__(self, app: App, path: str, service: Service, *, kind: str = FORM) -> None:
        self._app = app
        self._path = path
        self._service = service
        self._kind = kind

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        service = self._service
        statuses: list[int] = []

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        service.active += 1
        try:
            refused = self._refusal(headers := Headers(scope=scope))
            scope["deadline"] = start + service.options.seconds
            limited = self._limited(receive, scope["deadline"])
            if refused:
                if "expect" not in headers:  # who waits for a word before sending gets it now
                    await _discard(limited)
                await refused(scope, receive, noting)
            else:
                await self._app(scope, limited, noting)
        finally:
            service.active -= 1
            service.metrics.requests.labels(statuses[0] if statuses else 499).inc()
            service.metrics.seconds.observe(time.monotonic() - start)

    @property
    def _max_count(self) -> int:
        return self._service.options.limits.bytes + MORE_BYTES

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        if self._service.stopping:
            return refusal(503, "the server is stopping; ask another one")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_count:
            return refusal(413, self._too_large)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != self._kind:
            return refusal(415, f"the request is {kind or 'of no type'}: {HINTS[self._kind]}")
        return None

    @property
    def _too_large(self) -> str:
        limits = self._service.options.limits
        return f"the request is too large: expected a photo of at most {limits.megabytes:g} megabytes"

    def _limited(self, receive: Receive, deadline: float) -> Receive:
        """Limit the size of the body and the time in which it must arrive."""
        received = 0

        async def one() -> Message:
            try:
                return await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0.001))
            except asyncio.TimeoutError:
                raise HTTPException(408, "the request did not arrive in time; send a smaller photo") from None

        async def limited() -> Message:
            nonlocal received
            message = await one()
            received += len(message.get("body", b""))
            if received > self._max_count:
                while message.get("more_body") and received < DISCARDED * self._max_count:
                    message = await one()
                    received += len(message.get("body", b""))
                raise HTTPException(413, self._too_large)
            return message

        return limited


async def _discard(receive: Receive) -> None:
    """Read and discard the rest of a request, so that the client reads the response."""
    with suppress(HTTPException):  # too much, or too slow
        while (await receive()).get("more_body"):
            pass
