"""Times stages on the device with CUDA events, which are read after the photo has finished."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ovsdino_runtime.base.trace import Trace
from ovsdino_runtime.cuda.driver import CudaStream, Device, Event


@dataclass(frozen=True)
class _Span:
    stage: str
    track: str
    start: Event
    end: Event


class DeviceClock:
    """Time the stages of each photo with CUDA events. The events are created once and reused.

    Args:
        device: the device that runs the stages.
        trace: records the measured spans.
    """

    def __init__(self, device: Device, trace: Trace) -> None:
        self._device = device
        self._trace = trace
        self._events: list[Event] = []
        self._used = 0
        self._spans: list[_Span] = []
        self._origin = 0.0
        self.running = False  # not while a graph is captured: its events have no time

    def begin(self, stream: CudaStream) -> None:
        """Start the clock of a photo on its first stream."""
        self._used, self._spans, self.running = 0, [], True
        base = self._event()
        stream.record(base)
        base.synchronize()
        self._origin = time.perf_counter()

    @contextmanager
    def span(self, stage: str, stream: CudaStream, track: str) -> Iterator[None]:
        """Time the work that is submitted to ``stream`` inside the context."""
        if not self.running:
            yield
            return
        start, end = self._event(), self._event()
        stream.record(start)
        yield
        stream.record(end)
        self._spans.append(_Span(stage=stage, track=track, start=start, end=end))

    def finish(self) -> dict[str, float]:
        """Return the time of each stage of a finished photo [ms], from its first start to its last end."""
        self.running = False
        base = self._events[0]
        times: dict[str, tuple[float, float]] = {}
        for span in self._spans:
            start, end = span.start.milliseconds_since(base), span.end.milliseconds_since(base)
            first, last = times.get(span.stage, (start, end))
            times[span.stage] = min(first, start), max(last, end)
            began = self._origin + start / 1000
            self._trace.add(span.stage, track=span.track, start=began, seconds=(end - start) / 1000)
        return {stage: round(last - first, 2) for stage, (first, last) in times.items()}

    def _event(self) -> Event:
        if self._used == len(self._events):
            self._events.append(self._device.make_event())
        self._used += 1
        return self._events[self._used - 1]
