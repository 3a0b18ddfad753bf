"""From requests to segmentations: so many wait, so many are worked on, and none takes for ever."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ovsdino_runtime.base.errors import OvsdinoError, TooLargeError
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.serve.batches import share_batches
from ovsdino_runtime.serve.metrics import Metrics
from ovsdino_runtime.serve.upload import UploadLimits, read_upload
from ovsdino_runtime.text.class_lists import Background
from ovsdino_runtime.text.vocabulary import Vocabulary

Answer = TypeVar("Answer")


class BusyError(OvsdinoError):
    """As many requests wait as may."""


class LateError(OvsdinoError):
    """A request was not answered within its time."""


@dataclass(frozen=True)
class ServiceOptions:
    """How much is taken on."""

    workers: int = 1  # photos labelled at the same time
    batch: int = 1  # most windows of theirs in one run of the vision engine; 1: each photo's alone
    waiting: int = 16  # requests that are worked on or wait for their turn
    seconds: float = 30.0  # for a request, from its first byte on
    limits: UploadLimits = field(default_factory=UploadLimits)


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    photo: bytes  # as it was sent
    vocabulary: Vocabulary
    background: Background  # see `Segmenter`
    scores: bool


class Service:
    """Labels photos for many at once. Its methods are for one event loop; the work is done in threads.

    The words come first, in a thread of their own: while a request waits for new words to be encoded, others
    are labelled. Requests with the same words share them.

    Args:
        segmenter: the model; several workers need one whose pipeline is on the processor.
        options: how much is taken on.
        metrics: takes down what happens.
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
            BusyError: as many requests wait as may.
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
        """End the threads, after what they do."""
        self._words.shutdown(cancel_futures=True)
        self._label.shutdown(cancel_futures=True)
        self.segmenter.close()

    async def _work(self, order: Order, write: Callable[[Segmentation], Answer]) -> Answer:
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        await loop.run_in_executor(self._words, self.segmenter.encode_text, order.vocabulary)
        words = _since(start)
        start = time.perf_counter()
        segmentation = await loop.run_in_executor(self._label, self._segment, order, start)
        segmentation = replace(segmentation, timings={"words": words, **segmentation.timings})
        self.metrics.saw(segmentation.timings)
        return await loop.run_in_executor(None, write, segmentation)

    def _segment(self, order: Order, queued: float) -> Segmentation:
        wait = _since(queued)
        start = time.perf_counter()
        photo = read_upload(order.photo, self.options.limits)
        decode = _since(start)
        try:
            found = self.segmenter(photo, order.vocabulary, background=order.background, scores=order.scores)
        except MemoryError as error:
            height, width = photo.shape[:2]
            raise TooLargeError(
                f"too little memory for {width}x{height} px; scale the photo down first"
            ) from error
        return replace(found, timings={"wait": wait, **found.timings, "decode": decode})


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 2)
