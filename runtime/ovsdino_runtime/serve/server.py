"""The HTTP server. After SIGTERM it answers the requests that it accepted and rejects all others."""

import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.serve.access import AccessOptions
from ovsdino_runtime.serve.app import NO_ACCESS, make_app
from ovsdino_runtime.serve.connections import ConnectionLimits, LimitedProtocol
from ovsdino_runtime.serve.label_studio import LabelStudioOptions
from ovsdino_runtime.serve.service import Service

KEPT_OPEN = 256  # connections beyond those that may wait
LAST_S = 5  # for connections that linger when all is answered


class AddressError(OvsdinoError):
    """The server cannot listen on an address."""


class Server(uvicorn.Server):
    """Uvicorn that answers 503 while it stops.

    Uvicorn itself closes its socket first: a load balancer would get no response instead of 503.

    Args:
        service: answers the requests.
        started: called once requests are accepted.
        access_log: whether to log each request.
        connections: limits on connections; None uses the defaults.
        access: which requests are answered.
        metrics: whether to serve ``GET /metrics``.
        label_studio: the Label Studio to serve as its backend; None: none.
    """

    def __init__(
        self,
        service: Service,
        started: Callable[[], None],
        *,
        access_log: bool = False,
        connections: ConnectionLimits | None = None,
        access: AccessOptions = NO_ACCESS,
        metrics: bool = True,
        label_studio: LabelStudioOptions | None = None,
    ) -> None:
        connections = connections or ConnectionLimits()
        config = uvicorn.Config(
            make_app(service, access, metrics=metrics, label_studio=label_studio),
            log_level="info" if access_log else "warning",
            access_log=access_log,
            limit_concurrency=service.options.waiting + KEPT_OPEN,
            server_header=False,
            http=partial(LimitedProtocol, limits=connections),  # type: ignore[arg-type] # called like the class
            timeout_graceful_shutdown=LAST_S,
            ws="none",
        )
        super().__init__(config)
        self._service = service
        self._started = started
        self._end = float("inf")  # [s] of the monotonic clock

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests, then call ``started``."""
        await super().startup(sockets)
        self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Accept no more requests after the first signal; end at once after the second."""
        if self._service.stopping:
            self.force_exit = self.should_exit = True
        self._service.stopping = True
        self._end = time.monotonic() + self._service.options.seconds

    async def on_tick(self, counter: int) -> bool:
        """End when every accepted request is answered or timed out."""
        if self._service.stopping and (not self._service.active or time.monotonic() > self._end):
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        AddressError: the address is in use, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise AddressError(f"{host} port {port}: {reason}; choose another") from error
