"""Record a Chrome trace for Perfetto: when each stage ran, and on which thread or stream.

The file uses the format's array form and is written as it grows. Readers accept an array without its end,
so that the trace of a killed run can be opened too.
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
    """Records spans from any thread. Close it, or use it in a ``with`` statement.

    Example:
        >>> with Trace(Path("trace.json")) as trace:
        ...     segmenter = Segmenter.load("nano", trace=trace)
        ...     segmenter("street.jpg", "car, road, sky")

    Args:
        path: the file to write; None records nothing.

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
        """Return the trace itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __reduce__(self) -> "tuple[type[Trace], tuple[()]]":
        """Pickle as an empty trace: another process records nothing."""
        return Trace, ()

    @property
    def on(self) -> bool:
        """Tell whether spans are recorded."""
        return self._file is not None

    @contextmanager
    def span(self, stage: str, **details: int | float | str) -> Iterator[None]:
        """Record a stage of the calling thread, also if it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            track = threading.current_thread().name
            self.add(stage, track=track, start=start, seconds=time.perf_counter() - start, **details)

    def add(
        self, stage: str, *, track: str, start: float, seconds: float, **details: int | float | str
    ) -> None:
        """Record a stage that was timed elsewhere, such as on a GPU stream.

        Args:
            stage: name of the stage.
            track: the thread or stream; each is a row in Perfetto.
            start: begin on the clock of `time.perf_counter` [s].
            seconds: duration [s].
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
        """Complete the file; later spans are not recorded."""
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
        except OSError as error:  # the run continues without a trace
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
