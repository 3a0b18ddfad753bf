"""The segmentation pipeline on a GPU: the stages of the host pipeline, submitted to CUDA streams.

copy      photo ->                                                             -> labels
vision 0         cut, encode 0      cut, encode 2      ...     cosines, merge, best class
vision 1         cut, encode 1      cut, encode 3      ...  |
text             words that are new, meanwhile -------------|  one event joins them

Two engine contexts take the windows in turns, in batches whose sizes differ by at most one; all batches of a
context have the same size. When photo size and classes repeat, the whole sequence is replayed as one CUDA
graph, if engine and back end support it. The graph is captured after a plain run of the same shapes, as
TensorRT requires.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.cuda.driver import CudaStream, Device
from ovsdino_runtime.device.clock import DeviceClock
from ovsdino_runtime.device.held import Held
from ovsdino_runtime.device.memory import DeviceMemory
from ovsdino_runtime.device.plan import PhotoPlan, WindowBatch, plan_batches, plan_photo
from ovsdino_runtime.device.stages import CutWindows, EncodeBatch, LabelPixels, load_kernels
from ovsdino_runtime.device.streams import Streams
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.engines.stream_engine import StreamEngine
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.pipelines.host_stages import Merge, Prepare, choose_refinement
from ovsdino_runtime.pipelines.pipeline import ImageFeatures, Pixels, SegmentFeatures

FULL_HD = (1080, 1920)  # [px] photos up to this size need no further allocation


@dataclass(frozen=True)
class _Key:
    """Everything that must be unchanged for a captured graph to be launched again."""

    photo: tuple[int, int]
    text: int  # address of the embeddings
    classes: int
    background: bool
    scores: bool


OpenVision = Callable[[Streams], StreamEngine]
OpenText = Callable[[Streams], Engine]


class DevicePipeline:
    """The segmentation pipeline on a GPU.

    Args:
        bundle: the model, with kernels for the device.
        device: runs all stages.
        open_vision: opens the vision engine on the pipeline's streams.
        open_text: opens the engine that runs the text graph.
        options: how the model runs.

    Raises:
        EngineError: the bundle has no kernels for the device, or the engine cannot be opened.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        *,
        open_vision: OpenVision,
        open_text: OpenText,
        options: RuntimeOptions = DEFAULT_OPTIONS,
    ) -> None:
        if options.inference != "slide":
            raise EngineError(
                f"{device.name}: inference {options.inference!r} runs on device 'cpu' alone; use 'slide'"
            )
        self._manifest, self._device, self._options = bundle.manifest, device, options
        self._open_text = open_text
        self.prepare = Prepare(bundle.manifest, options.antialias, options.inference)
        self._refinement = choose_refinement(bundle.manifest, options)
        self._on_host = self._refinement is not None or options.presence is not None
        merge = Merge(bundle.manifest, self._refinement, options.presence)
        self._segment_features = SegmentFeatures(bundle.graph_digest("vision"), merge, options.trace)
        self._lock = threading.Lock()  # one photo at a time: memory and streams are shared
        size, width = bundle.manifest.windows.size, bundle.manifest.text.width
        with device.current():
            kernels = load_kernels(bundle, device)
            self._tile = kernels.tile
            self._streams = Streams.make(device)
            self.vision = open_vision(self._streams)
            self._cut = CutWindows(kernels.cut, size)
            self._encode = EncodeBatch(self.vision, size, width)
            self._label_pixels = LabelPixels(kernels.scores, kernels.merge, width)
            self._events = {name: device.make_event() for name in ("uploaded", "text", "labelled")}
            self._encoded = [device.make_event() for _ in self._streams.vision]
            self._clock = DeviceClock(device, options.trace)
            plan = self._plan_photo(FULL_HD)
            self.memory = DeviceMemory(
                device,
                plan,
                pixels=4 * self.vision.max_count * 3 * size**2,
                contexts=self.vision.contexts,
                features=4 * width * plan.grid[0] * plan.grid[1],
                width=width,
            )
        self._plan: PhotoPlan | None = None
        self._text: Floats | None = None  # whose copy is on the device
        self._last: _Key | None = None  # of the last plain run, as long as its shapes are the contexts'
        self._held = Held(device, self._streams.all(), engines=[self.vision], memory=self.memory)
        self._finalizer = weakref.finalize(self, self._held.release)

    def open_text(self) -> Engine:
        """Open the engine that runs the text graph."""
        with self._device.current():
            return self._open_text(self._streams)

    def encode(self, photo: Photo) -> ImageFeatures:
        """Run everything that does not depend on the class names; copy the features to the host.

        Raises:
            EngineError: the engine or the device failed (the pipeline stays usable), or it is closed.
        """
        with self._lock, self._current():
            try:
                plan = self._prepare(photo, None)
                pinned = self.memory.pin_features(plan)  # (B, D, h, w)
                self._clock.begin(copy := self._streams.copy)
                self._submit_vision(plan)
                self._vision[0].record(self._events["labelled"])
                copy.wait(self._events["labelled"])
                with self._clock.span("download", copy, "copy"):
                    copy.copy_out(pinned, self.memory.at["features"])
                prepared = self.prepare(photo)  # meanwhile
                copy.synchronize()
                return ImageFeatures(
                    model=self._segment_features.model,
                    photo=photo,
                    prepared=prepared,
                    features=pinned.copy(),
                    timings=self._clock.finish(),
                )
            except BaseException:
                self._abandon()
                raise

    def segment(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels:
        """Segment features on the processor; see `pipelines.pipeline.SegmentFeatures`."""
        return self._segment_features(image_features, text, threshold=threshold, scores=scores)

    def label(self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool) -> Pixels:
        """Segment a photo; the embeddings may arrive while the windows are encoded.

        Labels that are refined, or of present classes alone, are computed on the processor, from the features
        of the device.

        Raises:
            EngineError: the engine or the device failed (the pipeline stays usable), or it is closed.
        """
        if self._on_host:
            seen = self.encode(photo)
            pixels = self.segment(seen, text, threshold=threshold, scores=scores)
            return replace(pixels, timings={**seen.timings, **pixels.timings})
        with self._lock, self._current():
            try:
                plan = self._prepare(photo, threshold)
                timings = self._run(plan, text, background=threshold is not None, scores=scores)
                labels, confidence = (self.memory.host[name] for name in ("labels", "confidence"))
                return Pixels(labels.copy(), confidence.copy() if scores else None, timings)
            except BaseException:
                self._abandon()
                raise

    def close(self) -> None:
        """Wait for a photo in flight, then free the device memory. Also happens on garbage collection."""
        with self._lock:
            self._plan = self._text = self._last = None
            self._finalizer()

    @contextmanager
    def _current(self) -> Iterator[None]:
        if self._held.closed:
            raise EngineError(f"{self._device.name}: the model is closed; load it again")
        with self._device.current():
            yield

    def _prepare(self, photo: Photo, threshold: float | None) -> PhotoPlan:
        """Copy photo and head to pinned memory; for a new photo size, copy the tables to the device."""
        if self._plan is None or self._plan.photo != photo.shape[:2]:
            self._held.forget_graph()
            self._last = None  # the engine's contexts get other shapes
            plan = self._plan_photo((photo.shape[0], photo.shape[1]))
            self.memory.lay_out(plan)
            self.memory.host["tables"][:] = plan.pack_tables()
            self._streams.copy.copy_in(self.memory.at["tables"], self.memory.host["tables"])
            self._plan = plan
        head = self._manifest.head
        self.memory.host["photo"][:] = photo
        self.memory.host["head"][:] = (head.scale, head.bias, -1.0 if threshold is None else threshold)
        return self._plan

    def _run(
        self, plan: PhotoPlan, text: Future[Floats], *, background: bool, scores: bool
    ) -> Mapping[str, float]:
        """Submit the work of a photo and wait until it has finished."""
        copy = self._streams.copy
        known = text.done() and text.result() is self._text
        classes = len(self._text) if known and self._text is not None else 0
        key = _Key(
            photo=plan.photo,
            text=self.memory.text_address,
            classes=classes,
            background=background,
            scores=scores,
        )
        if known and key == self._last and self._captures(plan):
            return self._replay(plan, key)
        waited = 0.0

        def join() -> int:
            nonlocal waited
            start = time.perf_counter()
            count = self._join_text(text.result())
            waited = time.perf_counter() - start
            return count

        self._clock.begin(copy)
        count = self._submit(plan, join, background=background, scores=scores)
        copy.synchronize()
        self._last = _Key(
            photo=plan.photo,
            text=self.memory.text_address,
            classes=count,
            background=background,
            scores=scores,
        )
        return self._clock.finish() | {"text": round(1000 * waited, 2)}

    def _captures(self, plan: PhotoPlan) -> bool:
        """Tell whether the work fits a CUDA graph: one batch size per context, and no stage is timed."""
        shapes = {(batch.context, batch.count) for batch in self._batches(plan)}
        steady = len(shapes) == len({context for context, _ in shapes})
        return steady and self.vision.capturable and self._device.captures and not self._options.trace.on

    def _replay(self, plan: PhotoPlan, key: _Key) -> Mapping[str, float]:
        """Launch the work as one CUDA graph; capture it the first time."""
        start = time.perf_counter()
        copy = self._streams.copy
        held = self._held
        if held.graph is None or held.graph[0] != key:
            held.forget_graph()

            def submit() -> None:
                self._submit(plan, lambda: key.classes, background=key.background, scores=key.scores)

            held.graph = key, self._device.capture(copy, submit)
        held.graph[1].launch(copy)
        copy.synchronize()
        return {"graph": round(1000 * (time.perf_counter() - start), 2)}

    def _submit(self, plan: PhotoPlan, join: Callable[[], int], *, background: bool, scores: bool) -> int:
        """Submit all stages, beginning and ending on the copy stream; return the number of classes."""
        copy, vision = self._streams.copy, self._vision
        at, host, span = self.memory.at, self.memory.host, self._clock.span
        self._submit_vision(plan)
        classes = join()
        with span("merge", vision[0], "vision 0"):
            self._label_pixels(plan, self.memory.at, classes=classes, background=background, stream=vision[0])
        vision[0].record(self._events["labelled"])
        copy.wait(self._events["labelled"])
        with span("download", copy, "copy"):
            copy.copy_out(host["labels"], at["labels"])
            if scores:
                copy.copy_out(host["confidence"], at["confidence"])
        return classes

    def _submit_vision(self, plan: PhotoPlan) -> None:
        """Submit the stages up to the features, from the copy stream to the first vision stream."""
        copy, vision = self._streams.copy, self._vision
        at, host = self.memory.at, self.memory.host
        with self._clock.span("upload", copy, "copy"):
            copy.copy_in(at["head"], host["head"])
            copy.copy_in(at["photo"], host["photo"])
        copy.record(self._events["uploaded"])
        for stream in vision:
            stream.wait(self._events["uploaded"])
        self._encode_windows(plan, vision)
        for stream, event in zip(vision[1:], self._encoded, strict=False):
            stream.record(event)
            vision[0].wait(event)

    def _encode_windows(self, plan: PhotoPlan, vision: Sequence[CudaStream]) -> None:
        """Cut and encode all windows, batch by batch."""
        at = self.memory.at
        for batch in self._batches(plan):
            context, first, count = batch.context, batch.first, batch.count
            stream, track = vision[context], f"vision {context}"
            with self._clock.span("resize", stream, track):
                pixels = at[f"pixels.{context}"]
                self._cut(plan, at, first=first, batch=count, pixels=pixels, stream=stream)
            with self._clock.span("vision", stream, track):
                self._encode(plan, at, context=context, first=first, batch=count, stream=stream)

    def _batches(self, plan: PhotoPlan) -> list[WindowBatch]:
        return plan_batches(plan.windows, max_count=self.vision.max_count, contexts=len(self._vision))

    def _join_text(self, embeddings: Floats) -> int:
        """Copy the embeddings to the device unless they are there; make the head wait for them."""
        if embeddings is not self._text:
            stream = self._streams.text
            self._text = None
            pinned = self.memory.place_text(np.ascontiguousarray(embeddings, np.float32))
            with self._clock.span("text copy", stream, "text"):
                stream.copy_in(self.memory.text_address, pinned)
            stream.record(self._events["text"])
            self._streams.vision[0].wait(self._events["text"])
            self._text = embeddings
        return len(embeddings)

    @property
    def _vision(self) -> tuple[CudaStream, ...]:
        """The streams on which the engine has contexts."""
        return self._streams.vision[: self.vision.contexts]

    def _plan_photo(self, photo: tuple[int, int]) -> PhotoPlan:
        return plan_photo(self._manifest, photo, antialias=self._options.antialias, tile=self._tile)

    def _abandon(self) -> None:
        """After a failure: wait for work in flight, and treat everything on the device as lost."""
        self._held.wait()
        with suppress(EngineError):
            self._held.forget_graph()
        self._plan = self._text = self._last = None
