"""Metrics of the server, for Prometheus."""

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one server, in a separate registry."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time and open files, on Linux
        self.requests = Counter(
            "ovsdino_requests", "Requests to label a photo, by status.", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "ovsdino_request_seconds",
            "From a request's first byte to its answer's last.",
            registry=registry,
            buckets=SECONDS,
        )
        self.waiting = Gauge(
            "ovsdino_waiting", "Requests that are worked on or wait for their turn.", registry=registry
        )
        self.batches = Histogram(
            "ovsdino_batch_windows",
            "Windows in each run of the vision engine, where requests share them (--batch).",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32),
        )
        self._stages = Histogram(
            "ovsdino_stage_seconds",
            "Time of each stage of a request.",
            ["stage"],
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, *SECONDS),
        )

    def observe(self, timings: Mapping[str, float]) -> None:
        """Record the time of each stage of a request [ms]."""
        for stage, milliseconds in timings.items():
            self._stages.labels(stage).observe(milliseconds / 1000)

    def serve(self, host: str, port: int) -> None:
        """Serve ``GET /metrics`` on a separate port, in a daemon thread.

        Raises:
            OSError: the port is in use, or the address does not belong to this machine.
        """
        start_http_server(port, addr=host, registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
