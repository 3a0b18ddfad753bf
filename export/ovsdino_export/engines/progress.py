"""Build an engine with progress reports and a way to interrupt it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

from ovsdino_runtime.engines.tensorrt_library import Trt

Report = Callable[[str], None]
EVERY = 10.0  # [s] between two reports
STOP_WAIT = 30.0  # [s] for the builder to stop after an interrupt; it looks only between steps


@dataclass(frozen=True)
class Build:
    """The result of a build."""

    data: bytes | None  # None: TensorRT logged why
    seconds: float


@dataclass
class BuildProgress:
    """The progress of a build; written by TensorRT's thread, read by ours."""

    phases: list[tuple[str, int, int]] = field(default_factory=list)  # open ones: name, step, steps
    stopped: bool = False

    def describe(self, elapsed: float, expected: float | None) -> str:
        """Return the progress as one line of text."""
        *_, (phase, step, steps) = [("starting", 0, 0), *self.phases]
        part = f" {step}/{steps}" if steps > 1 else ""
        of = (
            f" s of about {expected:.0f} s"
            if expected is not None
            else " s; the first build, no estimate yet"
        )
        return f"  {phase}{part}: {elapsed:.0f}{of}"


def build_watched(
    trt: ModuleType,
    builder: Trt,
    *,
    network: Trt,
    config: Trt,
    expected: float | None,
    report: Report,
) -> Build:
    """Build an engine in a separate thread, so that this thread can report progress and be interrupted.

    Args:
        trt: TensorRT's Python module.
        builder, network, config: objects of TensorRT.
        expected: duration of an earlier build [s].
        report: called with the progress every few seconds.

    Raises:
        KeyboardInterrupt: the user stopped it; nothing is written.
    """
    progress = BuildProgress()
    config.progress_monitor = make_monitor(trt, progress)
    results: list[Trt] = []

    def work() -> None:
        results.append(builder.build_serialized_network(network, config))

    worker = threading.Thread(target=work, daemon=True)
    start = time.monotonic()
    worker.start()
    try:
        while worker.is_alive():
            worker.join(EVERY)
            if worker.is_alive():
                report(progress.describe(time.monotonic() - start, expected))
    except KeyboardInterrupt:
        progress.stopped = True
        report("stopping the builder")
        worker.join(STOP_WAIT)
        raise
    seconds = time.monotonic() - start
    built = results[0] if results else None
    return Build(None if built is None else bytes(built), seconds)


def make_monitor(trt: ModuleType, progress: BuildProgress) -> Trt:
    """Create TensorRT's progress monitor; its base class exists only after TensorRT is imported."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        """Record the progress in `progress`."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            progress.phases.append((phase_name, 0, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            progress.phases[:] = [phase for phase in progress.phases if phase[0] != phase_name]

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.phases[:] = [
                (name, step, steps) if name == phase_name else (name, done, steps)
                for name, done, steps in progress.phases
            ]
            return not progress.stopped  # False stops the build

    return Monitor()
