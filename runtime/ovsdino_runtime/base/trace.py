"""A Chrome trace: when each stage ran, and on which thread or stream. Perfetto shows it.

The file is written as it grows, in the format's array form, of which readers forgive a missing end: the
trace of a run that was killed is read like any other.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ovsdino_runtime.base.errors import OutputError

log = logging.getLogger(__name__)


class Trace:
    """Takes down spans from any thread. Close it, or use it in a ``with`` statement.

    Args:
        path: the file; None takes nothing down.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._tracks: dict[str, int] = {}
        self._lock = threading.Lock()
        self._origin = time.perf_counter()
        self._separator = "\n"
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("w", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
            self._write("[")

    def __enter__(self) -> "Trace":
        """Give the trace itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __reduce__(self) -> "tuple[type[Trace], tuple[()]]":
        """Let options go to another process, where nothing is taken down."""
        return Trace, ()

    @property
    def on(self) -> bool:
        """Tell whether anything is taken down."""
        return self._file is not None

    @contextmanager
    def span(self, stage: str, **details: int | float | str) -> Iterator[None]:
        """Take down a stage of the calling thread, even one that fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            track = threading.current_thread().name
            self.add(stage, track=track, start=start, seconds=time.perf_counter() - start, **details)

    def add(
        self, stage: str, *, track: str, start: float, seconds: float, **details: int | float | str
    ) -> None:
        """Take down a stage that was timed elsewhere, such as on a stream of a GPU.

        Args:
            stage: its name.
            track: the thread or stream; each is a line of the picture.
            start: when it began, on the clock of `time.perf_counter` [s].
            seconds: how long it took [s].
            details: shown when the stage is clicked.
        """
        with self._lock:
            if self._file is None:
                return
            known = len(self._tracks)
            number = self._tracks.setdefault(track, known + 1)
            if number > known:
                self._put({"name": "thread_name", "ph": "M", "tid": number, "args": {"name": track}})
            begin = round((start - self._origin) * 1e6, 1)
            times = {"ts": begin, "dur": round(seconds * 1e6, 1)}  # [us]
            self._put({"name": stage, "ph": "X", "tid": number, **times, "args": details})

    def close(self) -> None:
        """End the file; what comes later is not taken down."""
        with self._lock:
            self._write("\n]\n")
            self._end()

    def _put(self, event: dict[str, object]) -> None:
        self._write(self._separator + json.dumps({**event, "pid": os.getpid()}))
        self._separator = ",\n"

    def _write(self, text: str) -> None:
        try:
            if self._file is not None:
                self._file.write(text)
        except OSError as error:  # the work goes on without its trace
            log.warning("%s: %s; the trace ends here", self._path, error)
            self._end()

    def _end(self) -> None:
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            log.warning("%s: %s; the trace is not complete", self._path, error)


NO_TRACE = Trace()
