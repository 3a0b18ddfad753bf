"""A server that ends well: after SIGTERM it answers what it has taken on, and sends everyone else away."""

import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.serve.app import make_app
from ovsdino_runtime.serve.service import Service

KEPT_OPEN = 256  # connections beyond those that may wait
LAST_S = 5  # for connections that linger when all is answered


class AddressError(OvsdinoError):
    """Nobody can be served at an address."""


class Server(uvicorn.Server):
    """Uvicorn, except for how it ends.

    Uvicorn itself closes the door first: who comes then finds nobody, where a balancer wants to hear 503.

    Args:
        service: what is served.
        started: called when requests are taken on.
        access_log: write a line about each request.
    """

    def __init__(self, service: Service, started: Callable[[], None], *, access_log: bool = False) -> None:
        config = uvicorn.Config(
            make_app(service),
            log_level="info" if access_log else "warning",
            access_log=access_log,
            limit_concurrency=service.options.waiting + KEPT_OPEN,
            server_header=False,
            timeout_graceful_shutdown=LAST_S,
            ws="none",
        )
        super().__init__(config)
        self._service = service
        self._started = started
        self._end = float("inf")  # [s] of the monotonic clock

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Take on no more at the first signal; end at once at the second."""
        if self._service.stopping:
            self.force_exit = self.should_exit = True
        self._service.stopping = True
        self._end = time.monotonic() + self._service.options.seconds

    async def on_tick(self, counter: int) -> bool:
        """End when all is answered, or has had its time."""
        if self._service.stopping and (not self._service.active or time.monotonic() > self._end):
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Open the door.

    Raises:
        AddressError: the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise AddressError(f"{host} port {port}: {reason}; choose another") from error
