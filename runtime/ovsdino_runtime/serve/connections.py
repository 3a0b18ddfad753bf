"""Limits on connections: time for a request's head, and number per client."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

REFUSAL = (
    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {size}\r\n"
    "{more}\r\n{body}"
)


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Time limit for a request's head, and the number of connections per client address."""

    head_seconds: float = 10.0  # from the connection, or a request's first byte, to the head's end
    per_client: int = 64  # connections of one address
    held: Counter[str] = field(default_factory=Counter)  # address -> connections now


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with a deadline on each request's head and a limit of connections per address.

    Uvicorn waits forever for the rest of a head: a few hundred incomplete heads would occupy all connections.

    Args:
        limits: shared by all connections of a server.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._address = ""
        self._refused = False
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or reject it."""
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._limits.held[self._address] += 1
        if self._limits.held[self._address] > self._limits.per_client:
            self._refused = True
            error = f"{self._limits.per_client} connections of this address are open; close some of them"
            transport.write(_refusal("429 Too Many Requests", error, "retry-after: 1\r\n"))
            transport.close()
            return
        super().connection_made(transport)
        self._begin_deadline()

    def data_received(self, data: bytes) -> None:
        """Pass data on; the deadline runs while the head is incomplete."""
        if self._refused:
            return
        super().data_received(data)
        between_requests = self.cycle is None or self.cycle.response_complete
        if between_requests and self.conn.trailing_data[0]:
            self._begin_deadline()
        else:
            self._end_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection as closed."""
        self._end_deadline()
        self._limits.held[self._address] -= 1
        if self._limits.held[self._address] <= 0:
            del self._limits.held[self._address]
        if not self._refused:
            super().connection_lost(exc)

    def _begin_deadline(self) -> None:
        if self._head_deadline is None:
            self._head_deadline = self.loop.call_later(self._limits.head_seconds, self._refuse_late_head)

    def _end_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _refuse_late_head(self) -> None:
        self._head_deadline = None
        if not self.transport.is_closing():
            error = f"the request's head did not arrive within {self._limits.head_seconds:g} s"
            self.transport.write(_refusal("408 Request Timeout", error))
            self.transport.close()


def _refusal(status: str, error: str, more: str = "") -> bytes:
    body = f'{{"error": "{error}"}}'
    return REFUSAL.format(status=status, size=len(body), more=more, body=body).encode("ascii")
