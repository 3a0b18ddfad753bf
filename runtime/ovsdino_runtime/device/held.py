"""What a pipeline holds on a device, and how it is released."""

from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Protocol

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.cuda.driver import CudaGraph, CudaStream, Device


class Released(Protocol):
    """Buffers that are freed at once."""

    def free(self) -> None: ...


class Closed(Protocol):
    """An engine that can be closed."""

    def close(self) -> None: ...


class Held:
    """Resources of a pipeline on a device; released once, by its ``close`` or garbage collection.

    Args:
        device: owns the resources.
        streams: all streams of the pipeline.
        engines: run its graphs.
        memory: buffers of the pipeline.
    """

    def __init__(
        self, device: Device, streams: Sequence[CudaStream], *, engines: Sequence[Closed], memory: Released
    ) -> None:
        self.device, self.streams, self.engines, self.memory = device, streams, engines, memory
        self.graph: tuple[Hashable, CudaGraph] | None = None
        self.closed = False

    def forget_graph(self) -> None:
        """Free the CUDA graph."""
        if self.graph is not None:
            self.graph[1].free()
        self.graph = None

    def wait(self) -> None:
        """Wait for all work in flight; ignore its errors."""
        for stream in self.streams:
            with suppress(Exception):  # a failure is reported by the call in which it happened
                stream.synchronize()

    def release(self) -> None:
        """Free memory, graph, engines and device handles. Any thread may call this."""
        if self.closed:
            return
        self.closed = True
        with self.device.current():
            self.wait()
            with suppress(EngineError):
                self.forget_graph()
            self.memory.free()
        for engine in self.engines:
            engine.close()
        self.device.close()
