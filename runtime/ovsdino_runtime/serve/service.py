"""Process requests with limits on waiting requests, concurrent requests and time."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from ovsdino_runtime.base.errors import OvsdinoError, TooLargeError
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.segmentation import Segmentation, without_no_data
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.serve.batches import share_batches
from ovsdino_runtime.serve.metrics import Metrics
from ovsdino_runtime.serve.remote_photo import RemoteOptions, fetch_public_photo
from ovsdino_runtime.serve.upload import UploadLimits, read_upload
from ovsdino_runtime.text.class_lists import Background
from ovsdino_runtime.text.encoder import AbandonedError
from ovsdino_runtime.text.vocabulary import Vocabulary

Body = TypeVar("Body")


class BusyError(OvsdinoError):
    """The queue is full."""


class LateError(OvsdinoError):
    """A request exceeded its time limit."""


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """Limits on the number of requests and on the time of each."""

    workers: int = 1  # number of photos segmented at the same time
    batch: int = 1  # largest number of windows in one run of the vision engine; 1: photos do not share runs
    waiting: int = 16  # number of requests that are processed or wait
    seconds: float = 30.0  # time limit of a request, from its first byte
    limits: UploadLimits = field(default_factory=UploadLimits)
    remote: RemoteOptions | None = None  # how photos are fetched by address; None: they are not


@dataclass(frozen=True, kw_only=True)
class SegmentRequest:
    """A validated request: a photo and how to segment it."""

    photo: bytes | str  # the uploaded file, or the address to fetch it from
    choose: Callable[[], Vocabulary]  # parses the classes; called in a thread: it may take milliseconds
    background: Background  # see `Segmenter`
    scores: bool
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS
    remote: RemoteOptions | None = None  # how to fetch this photo; None: as the service's options say


class Service:
    """Segment photos for many clients. Call its methods from one event loop; threads do the work.

    Words are encoded first, in a separate thread: while one request waits for new words, other photos are
    segmented. Requests with the same words share the embeddings. Encoding stops once no request waits for it.

    Args:
        segmenter: the model; more than one worker needs device "cpu".
        options: limits on requests.
        metrics: records requests and times.
    """

    def __init__(self, segmenter: Segmenter, options: ServiceOptions, metrics: Metrics) -> None:
        self.segmenter = segmenter
        self.options = options
        self.metrics = metrics
        self.stopping = False  # set once, also by a signal handler: no further request is accepted
        self.active = 0  # number of requests that are being read, processed or answered
        self._waiting = 0
        if options.batch > 1:
            share_batches(segmenter.pipeline, options.batch, metrics.batches.observe)
        self._wanting: Counter[tuple[tuple[str, ...], ...]] = Counter()  # requests that wait for these words
        self._read = ThreadPoolExecutor(1, "read")
        self._words = ThreadPoolExecutor(1, "words")
        self._label = ThreadPoolExecutor(options.workers, "label")
        self._fetch = ThreadPoolExecutor(options.waiting, "fetch")  # starts no thread before an address comes

    async def answer(
        self, request: SegmentRequest, write: Callable[[Segmentation], Body], *, seconds: float
    ) -> Body:
        """Segment a photo and encode the response.

        Args:
            request: the request.
            write: encodes the response; called in a thread.
            seconds: remaining time.

        Raises:
            BusyError: the queue is full.
            LateError: the time limit was exceeded.
            OvsdinoError: the photo or the words are invalid, or the engine failed.
        """
        if self._waiting >= self.options.waiting:
            raise BusyError(f"{self._waiting} requests are waiting already; try again in a moment")
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            return await asyncio.wait_for(self._work(request, write), max(seconds, 0))
        except asyncio.TimeoutError as error:
            raise LateError(
                f"not answered within {self.options.seconds:g} s; try again, or ask for less"
            ) from error
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)

    def close(self) -> None:
        """Wait for running work, then stop the threads and release the model."""
        self._read.shutdown(cancel_futures=True)
        self._words.shutdown(cancel_futures=True)
        self._label.shutdown(cancel_futures=True)
        self._fetch.shutdown(cancel_futures=True)
        self.segmenter.close()

    async def _work(self, request: SegmentRequest, write: Callable[[Segmentation], Body]) -> Body:
        loop = asyncio.get_running_loop()
        if isinstance(request.photo, str):
            fetch = partial(fetch_public_photo, max_bytes=self.options.limits.bytes)
            options = request.remote or self.options.remote or RemoteOptions()
            photo = await loop.run_in_executor(self._fetch, partial(fetch, request.photo, options=options))
            request = replace(request, photo=photo)
        start = time.perf_counter()
        vocabulary = await loop.run_in_executor(self._read, request.choose)
        if not self.segmenter.has_text(vocabulary):  # else it does not wait for the new words of others
            with self._wanted(vocabulary):
                await loop.run_in_executor(self._words, self._encode, vocabulary)
        words = _since(start)
        start = time.perf_counter()
        segmentation = await loop.run_in_executor(self._label, self._segment, request, vocabulary, start)
        segmentation = replace(segmentation, timings={"words": words, **segmentation.timings})
        self.metrics.observe(segmentation.timings)
        return await loop.run_in_executor(None, write, segmentation)

    @contextmanager
    def _wanted(self, vocabulary: Vocabulary) -> Iterator[None]:
        """Count the requests that wait for these words; encoding stops when there are none."""
        self._wanting[vocabulary.entries] += 1
        try:
            yield
        finally:
            self._wanting[vocabulary.entries] -= 1
            if not self._wanting[vocabulary.entries]:
                del self._wanting[vocabulary.entries]

    def _encode(self, vocabulary: Vocabulary) -> None:
        while True:
            try:
                self.segmenter.encode_text(vocabulary, wanted=lambda: vocabulary.entries in self._wanting)
            except AbandonedError:
                if vocabulary.entries in self._wanting:  # asked for again in the meantime
                    continue
            return

    def _segment(self, request: SegmentRequest, vocabulary: Vocabulary, queued: float) -> Segmentation:
        wait = _since(queued)
        start = time.perf_counter()
        assert isinstance(request.photo, bytes)
        decoded = read_upload(request.photo, self.options.limits, options=request.photo_options)
        photo, decode = decoded.photo, _since(start)
        try:
            segmentation = self.segmenter(
                photo, vocabulary, background=request.background, scores=request.scores
            )
        except MemoryError as error:
            height, width = photo.shape[:2]
            raise TooLargeError(
                f"too little memory for {width}x{height} px; scale the photo down first"
            ) from error
        timings = {"wait": wait, **segmentation.timings, "decode": decode}
        segmentation = replace(segmentation, timings=timings, notes=decoded.notes)
        return segmentation if decoded.valid is None else without_no_data(segmentation, decoded.valid)


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 2)
