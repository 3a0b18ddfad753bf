"""How long work takes on a device: CUDA by its own events, a CPU by the host's clock."""

import time
from collections.abc import Callable
from typing import Any

from ovsdino_benchmarks.kernels.results import Device
from ovsdino_runtime.cuda.devices import find_gpus

Work = Callable[[], object]
CAPTURE_RUNS = 3  # on a side stream before a capture, as torch's documentation asks for
FLUSH_BYTES = 256 << 20  # more than any GPU's cache, and long enough to hide a launch


class HostClock:
    """Times work on the CPU."""

    device = "cpu"

    def prepare(self, work: Work) -> Work:
        """Run it once, so that what is made at the first call is made."""
        work()
        return work

    def time(self, work: Work) -> float:
        """Return how long it takes [ms]."""
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start)

    def peak(self, work: Work) -> float | None:  # noqa: ARG002 - the clocks' common signature
        """Say nothing: torch does not count the CPU's memory."""
        return None

    def describe(self) -> Device:
        """Name the processor's place; `Environment` says the rest."""
        return Device("CPU", "", "", 0.0, 0.0)


class CudaClock:
    """Times work on the current CUDA device: its own time, without the host's.

    The work is captured into a CUDA graph, so that launches cost the eager ways no more than the fused one.
    Before every replay a large buffer is written: inputs come from memory, not from the cache, and the host
    is ahead when the first event is reached.
    """

    device = "cuda"

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self._start, self._end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))

    def prepare(self, work: Work) -> Work:
        """Capture it into a graph; return what replays it."""
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(CAPTURE_RUNS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        replay: Work = graph.replay
        return replay

    def time(self, work: Work) -> float:
        """Return how long it takes the device [ms]."""
        self._flush.zero_()
        self._start.record()
        work()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end))

    def peak(self, work: Work) -> float | None:
        """Return how much device memory it takes above what is held now, its result included [MB]."""
        cuda = self._torch.cuda
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        work()
        cuda.synchronize()
        return float(cuda.max_memory_allocated() - before) / 1e6

    def describe(self) -> Device:
        """Name the GPU."""
        properties = self._torch.cuda.get_device_properties(self._torch.cuda.current_device())
        driver = next((gpu.driver for gpu in find_gpus() if gpu.name == properties.name), "unknown")
        capability = f"sm_{properties.major}{properties.minor}"
        cache = getattr(properties, "L2_cache_size", 0) / 1e6
        return Device(
            properties.name, capability, driver, round(properties.total_memory / 1e9, 1), round(cache, 1)
        )


Clock = HostClock | CudaClock
