"""Segment a sequence of pictures: reading, segmenting and writing run in parallel.

read_frames ──── queue ────► Segmenter ──── queue ────► consume
 (thread "read")            (caller's thread)            (thread "write")
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.frames import Frame
from ovsdino_runtime.base.segmentation import Segmentation, without_no_data
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import Background, Classes, choose_classes

WAITING = 4  # pictures that are decoded, and results that are not yet consumed
PATIENCE_S = 0.1  # between looks at whether to stop


@dataclass(frozen=True, eq=False)
class Result:
    """The result for a picture: a segmentation or an error."""

    frame: Frame
    segmentation: Segmentation | None = None
    error: PhotoError | None = None
    files: tuple[Path, ...] = ()  # that were written
    notes: tuple[str, ...] = ()  # what had to be decided, or was not written and why


Consume = Callable[[Result], Result]


class Stream:
    """Segment pictures in order. Iterate over the stream once.

    Example:
        >>> from ovsdino_runtime.files.sources import find_sources, read_frames
        >>> stream = Stream(segmenter, read_frames(find_sources(["drive.mp4"])), "road, car, sky")
        >>> for result in stream:
        ...     if result.segmentation is not None:
        ...         print(result.frame.seconds, result.segmentation.coverage())

    Args:
        segmenter: the model.
        frames: the pictures; see `read_frames`.
        classes: see `Segmenter`.
        background: see `Segmenter`.
        consume: called with every result in a separate thread, to write it; its return value is yielded.
        stop: event that ends the stream, as `stop` does; may also end `read_frames`.

    Raises:
        ClassesError: the classes do not form a valid vocabulary.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        frames: Iterable[Frame],
        classes: Classes,
        *,
        background: Background = None,
        consume: Consume | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._segmenter = segmenter
        self._frames = frames
        self._consume = consume
        self._stop = stop or threading.Event()
        self._ahead: _ReadAhead | None = None
        self.set_classes(classes, background=background)

    @property
    def dropped(self) -> int:
        """Number of pictures of live sources that were dropped because newer ones had arrived."""
        return self._ahead.dropped if self._ahead else 0

    def set_classes(self, classes: Classes, *, background: Background = None) -> None:
        """Change the classes for all further pictures. May be called from any thread.

        Raises:
            ClassesError: the classes do not form a valid vocabulary; the old ones remain.
        """
        self._classes = (
            choose_classes(classes, background=background),
            background,
        )  # in one step: both or neither

    def stop(self) -> None:
        """End the stream after the pictures in progress. May be called from any thread."""
        self._stop.set()

    def __iter__(self) -> Iterator[Result]:
        """Segment the pictures and yield their results.

        Raises:
            OvsdinoError: the engine failed, a result cannot be written, or a source needs a missing package.
        """
        writer = ThreadPoolExecutor(1, "write")
        pending = deque[Future[Result]]()
        try:
            with closing(_ReadAhead(self._frames, self._stop)) as self._ahead:
                for frame in self._ahead:
                    if self._stop.is_set():
                        break
                    result = self._label(frame)
                    if self._consume is None:
                        yield result
                        continue
                    pending.append(writer.submit(self._consume, result))
                    while pending and (pending[0].done() or len(pending) > WAITING):
                        yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except (KeyboardInterrupt, GeneratorExit):
            writer.shutdown(cancel_futures=True)
            raise
        finally:
            writer.shutdown()  # what is labelled is written, also where the engine failed

    def _label(self, frame: Frame) -> Result:
        if frame.photo is None:
            return Result(frame, error=frame.error)
        vocabulary, background = self._classes
        try:
            segmentation = self._segmenter(frame.photo, vocabulary, background=background)
        except MemoryError:
            height, width = frame.photo.shape[:2]
            what = f"{frame.source.name}: too little memory for {width}x{height} px; scale it down first"
            return Result(frame, error=PhotoError(what))
        timings = {**segmentation.timings, "decode": round(frame.decode, 2)}
        segmentation = replace(segmentation, timings=timings, notes=frame.notes)
        if frame.valid is not None:
            segmentation = without_no_data(segmentation, frame.valid)
        return Result(frame, segmentation, notes=segmentation.notes)


class _ReadAhead:
    """Read pictures ahead in a thread; of a live source only the newest picture is kept."""

    def __init__(self, frames: Iterable[Frame], stop: threading.Event) -> None:
        self._frames = frames
        self._stop = stop
        self._waiting = deque[Frame | BaseException | None]()  # None is the end
        self._changed = threading.Condition()
        self.dropped = 0
        self._thread = threading.Thread(target=self._read, name="read", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while (item := self._get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread after the current picture."""
        self._stop.set()
        self._thread.join(timeout=1)

    def _read(self) -> None:
        try:
            for frame in self._frames:
                self._put(frame)
                if self._stop.is_set():
                    break
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the pictures are wanted
            self._put(error)

    def _put(self, item: Frame | BaseException | None) -> None:
        with self._changed:
            if _is_fleeting(item):
                kept = [other for other in self._waiting if not _is_fleeting(other)]
                self.dropped += len(self._waiting) - len(kept)
                self._waiting = deque(kept)
            while len(self._waiting) >= WAITING and not self._stop.is_set():
                self._changed.wait(PATIENCE_S)
            self._waiting.append(item)
            self._changed.notify_all()

    def _get(self) -> Frame | BaseException | None:
        with self._changed:
            while not self._waiting and not self._stop.is_set():
                self._changed.wait(PATIENCE_S)
            item = self._waiting.popleft() if self._waiting else None
            self._changed.notify_all()
            return item


def _is_fleeting(item: Frame | BaseException | None) -> bool:
    return isinstance(item, Frame) and item.live and item.photo is not None
