"""Measure the time of work on a device: with events on CUDA, with the host's clock on a CPU."""

import time
from collections.abc import Callable
from typing import Any

from ovsdino_benchmarks.kernels.results import MeasuredDevice
from ovsdino_runtime.cuda.devices import find_gpus

Work = Callable[[], object]
CAPTURE_RUNS = 3  # on a side stream before a capture, as torch's documentation asks for
FLUSH_BYTES = 256 << 20  # more than any GPU's cache, and long enough to hide a launch


class HostClock:
    """Measure work on the CPU."""

    device = "cpu"

    def prepare(self, work: Work) -> Work:
        """Run the work once, to include no first-call initialisation in the measurement."""
        work()
        return work

    def time(self, work: Work) -> float:
        """Return the duration of the work [ms]."""
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start)

    def peak(self, work: Work) -> float | None:  # noqa: ARG002 - the clocks' common signature
        """Return None: torch does not count the CPU's memory."""
        return None

    def describe(self) -> MeasuredDevice:
        """Return a placeholder for the CPU; `Environment` describes it."""
        return MeasuredDevice(name="CPU", capability="", driver="", memory_gb=0.0, cache_mb=0.0)


class CudaClock:
    """Measure the device time of work on the current CUDA device.

    The work is captured into a CUDA graph, so that launch overhead does not favour the fused kernel. A large
    buffer is written before every replay, so that inputs come from memory, not from the cache, and that the
    host is ahead of the device at the first event.
    """

    device = "cuda"

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self._start, self._end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))

    def prepare(self, work: Work) -> Work:
        """Capture the work into a graph; return a function that replays it."""
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
        """Return the device time of the work [ms]."""
        self._flush.zero_()
        self._start.record()
        work()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end))

    def peak(self, work: Work) -> float | None:
        """Return the peak of additional device memory, including the result [MB]."""
        cuda = self._torch.cuda
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        work()
        cuda.synchronize()
        return float(cuda.max_memory_allocated() - before) / 1e6

    def describe(self) -> MeasuredDevice:
        """Describe the GPU."""
        properties = self._torch.cuda.get_device_properties(self._torch.cuda.current_device())
        driver = next((gpu.driver for gpu in find_gpus() if gpu.name == properties.name), "unknown")
        capability = f"sm_{properties.major}{properties.minor}"
        cache = getattr(properties, "L2_cache_size", 0) / 1e6
        return MeasuredDevice(
            name=properties.name,
            capability=capability,
            driver=driver,
            memory_gb=round(properties.total_memory / 1e9, 1),
            cache_mb=round(cache, 1),
        )


Clock = HostClock | CudaClock
