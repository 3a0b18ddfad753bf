"""Answer requests: bounds how many wait, how many are computed at once, and how long each may take."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ovsdino_runtime.base.errors import OvsdinoError, TooLargeError
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.serve.batches import share_batches
from ovsdino_runtime.serve.metrics import Metrics
from ovsdino_runtime.serve.upload import UploadLimits, read_upload
from ovsdino_runtime.text.class_lists import Background
from ovsdino_runtime.text.encoder import AbandonedError
from ovsdino_runtime.text.vocabulary import Vocabulary

Answer = TypeVar("Answer")


class BusyError(OvsdinoError):
    """The queue is full."""


class LateError(OvsdinoError):
    """A request was not answered within its time."""


@dataclass(frozen=True)
class ServiceOptions:
    """How many requests the server accepts, and how long each may take."""

    workers: int = 1  # photos labelled at the same time
    batch: int = 1  # most windows of theirs in one run of the vision engine; 1: each photo's alone
    waiting: int = 16  # requests that are worked on or wait for their turn
    seconds: float = 30.0  # for a request, from its first byte on
    limits: UploadLimits = field(default_factory=UploadLimits)


@dataclass(frozen=True)
class Order:
    """What one request asks for."""

    photo: bytes  # as it was sent
    choose: Callable[[], Vocabulary]  # reads the classes; called in a thread, for it may take milliseconds
    background: Background  # see `Segmenter`
    scores: bool


class Service:
    """Label photos for many clients. Call its methods from one event loop; threads do the work.

    Words are encoded first, in a thread of their own: while one request waits for new words, others are
    labelled. Requests with the same words share them. Encoding stops when no request waits for it any more.

    Args:
        segmenter: the model; several workers need one whose pipeline is on the processor.
        options: how many requests are accepted.
        metrics: records what happens.
    """

    def __init__(self, segmenter: Segmenter, options: ServiceOptions, metrics: Metrics) -> None:
        self.segmenter = segmenter
        self.options = options
        self.metrics = metrics
        self.stopping = False  # set once, also by a signal's handler: no request is taken on any more
        self.active = 0  # requests that are being read, worked on or answered
        self._waiting = 0
        if options.batch > 1:
            share_batches(segmenter.pipeline, options.batch, metrics.batches.observe)
        self._wanting: Counter[tuple[tuple[str, ...], ...]] = Counter()  # requests that wait for these words
        self._read = ThreadPoolExecutor(1, "read")
        self._words = ThreadPoolExecutor(1, "words")
        self._label = ThreadPoolExecutor(options.workers, "label")

    async def answer(
        self, order: Order, write: Callable[[Segmentation], Answer], *, seconds: float
    ) -> Answer:
        """Label a photo and write the answer.

        Args:
            order: what is asked for.
            write: makes the answer; called in a thread.
            seconds: the time that is left.

        Raises:
            BusyError: the queue is full.
            LateError: the time was too short.
            OvsdinoError: the photo or the words are not good, or the engine failed.
        """
        if self._waiting >= self.options.waiting:
            raise BusyError(f"{self._waiting} requests are waiting already; try again in a moment")
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            return await asyncio.wait_for(self._work(order, write), max(seconds, 0))
        except asyncio.TimeoutError as error:
            raise LateError(
                f"not answered within {self.options.seconds:g} s; try again, or ask for less"
            ) from error
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)

    def close(self) -> None:
        """Wait for the threads, then end them."""
        self._read.shutdown(cancel_futures=True)
        self._words.shutdown(cancel_futures=True)
        self._label.shutdown(cancel_futures=True)
        self.segmenter.close()

    async def _work(self, order: Order, write: Callable[[Segmentation], Answer]) -> Answer:
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        vocabulary = await loop.run_in_executor(self._read, order.choose)
        with self._wanted(vocabulary):
            await loop.run_in_executor(self._words, self._encode, vocabulary)
        words = _since(start)
        start = time.perf_counter()
        segmentation = await loop.run_in_executor(self._label, self._segment, order, vocabulary, start)
        segmentation = replace(segmentation, timings={"words": words, **segmentation.timings})
        self.metrics.saw(segmentation.timings)
        return await loop.run_in_executor(None, write, segmentation)

    @contextmanager
    def _wanted(self, vocabulary: Vocabulary) -> Iterator[None]:
        """Count a request that waits for words; the words of requests that were given up are dropped."""
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

    def _segment(self, order: Order, vocabulary: Vocabulary, queued: float) -> Segmentation:
        wait = _since(queued)
        start = time.perf_counter()
        photo = read_upload(order.photo, self.options.limits)
        decode = _since(start)
        try:
            found = self.segmenter(photo, vocabulary, background=order.background, scores=order.scores)
        except MemoryError as error:
            height, width = photo.shape[:2]
            raise TooLargeError(
                f"too little memory for {width}x{height} px; scale the photo down first"
            ) from error
        return replace(found, timings={"wait": wait, **found.timings, "decode": decode})


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 2)
