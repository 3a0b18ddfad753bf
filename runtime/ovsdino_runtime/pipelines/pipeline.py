"""The way of a photo through the model, the `host_stages` composed in `HostPipeline`.

photo - Prepare ---> windows - EncodeWindows ---> features (B, D, h, w)
words - `text.TextEncoder`, meanwhile ---------------> text (N, D)        Merge --> labels (H, W)
      |------------------- see --------------------------|     |------------ name -----------|

A pipeline on a device has the same methods; `Segmenter` takes either.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Protocol, TypeVar

from ovsdino_runtime.base.errors import EngineError, PhotoError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.base.trace import NO_TRACE, Trace
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.engines.processor import choose_engine, open_graph, open_vision
from ovsdino_runtime.geometry.types import Floats, Labels, Photo, Scores
from ovsdino_runtime.pipelines.host_stages import EncodeWindows, Merge, Prepare, Prepared, choose_refinement

Sight = TypeVar("Sight", bound="ImageFeatures")


@dataclass(frozen=True, eq=False)
class Pixels:
    """What a pipeline gives: label 0 is the background where there is a threshold. Shape: (H, W) each."""

    labels: Labels
    scores: Scores | None
    timings: Mapping[str, float]


class StageTimer:
    """Times of a photo's stages [ms], in their order; those of a stage that comes again are added up.

    Each goes into the trace as well.
    """

    def __init__(self, trace: Trace) -> None:
        self.times: dict[str, float] = {}
        self._trace = trace

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        with self._trace.span(stage):
            yield
        taken = (time.perf_counter() - start) * 1000
        self.times[stage] = round(self.times.get(stage, 0) + taken, 2)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """A photo as the model saw it, before any words: any number of word lists can be named on it."""

    model: str  # digest of the vision graph: no other model's words fit
    photo: Photo  # (H, W, 3)
    prepared: Prepared
    features: Floats  # (B, D, h, w) on the host
    timings: Mapping[str, float]  # [ms] of the stages so far


def check_seen(image_features: ImageFeatures, kind: type[Sight], model: str) -> Sight:
    """Return what was seen, if this model saw it.

    Raises:
        PhotoError: another one did.
    """
    if not isinstance(image_features, kind) or image_features.model != model:
        raise PhotoError("another model saw this photo, its features mean nothing here; see it again")
    return image_features


@dataclass(frozen=True)
class NameSeen:
    """Features that are there and text to labels, on the processor; the text is waited for."""

    model: str
    merge: Merge
    trace: Trace = NO_TRACE

    def __call__(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels:
        """Name the pixels of a photo; the timings are those of this call alone.

        Raises:
            PhotoError: another model saw the photo.
        """
        check_seen(image_features, ImageFeatures, self.model)
        lap = StageTimer(self.trace)
        with lap("text"):
            embeddings = text.result()  # (N, D)
        with lap("merge"):
            labels, confidence = self.merge(
                image_features.prepared, image_features.features, embeddings, threshold=threshold
            )
        return Pixels(labels, confidence if scores else None, lap.times)


class Pipeline(Protocol):
    """The way of photos on one device. Shape: photo (H, W, 3) RGB, text (N, D) of unit length."""

    prepare: Prepare
    vision: Engine

    def open_text(self) -> Engine: ...

    def encode(self, photo: Photo) -> ImageFeatures: ...

    def segment(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels: ...

    def label(
        self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels: ...

    def close(self) -> None: ...


DINOV3SEG_PIPELINE = (
    "ovsdino_runtime.pipelines.dinov3seg_open:open_dinov3seg_pipeline"  # of dinov3.seg, for any device
)
PIPELINES = {  # (device, engine) -> the function that opens the pipeline: (bundle, options) -> Pipeline
    ("cpu", "onnxruntime"): "ovsdino_runtime.pipelines.pipeline:open_host_pipeline",
    ("cpu", "openvino"): "ovsdino_runtime.pipelines.pipeline:open_host_pipeline",
    ("cuda", "onnxruntime"): "ovsdino_runtime.device.open:open_device_pipeline",
    ("cuda", "tensorrt"): "ovsdino_runtime.device.open:open_device_pipeline",
    ("cuda", "tensorrt-rtx"): "ovsdino_runtime.device.open:open_device_pipeline",
}


def open_pipeline(bundle: Bundle, options: RuntimeOptions) -> Pipeline:
    """Open the pipeline of a device and an engine; its module is imported when it is asked for.

    Raises:
        EngineError: there is none, it is not installed, or it does not reproduce the model.
    """
    if options.engine == "auto" and options.device == "cpu":
        options = choose_options(bundle, options)
    way = PIPELINES.get((options.device_kind, options.engine))
    if way is None:
        known = ", ".join(f"{device} with {engine}" for device, engine in PIPELINES)
        raise EngineError(f"device {options.device!r} with engine {options.engine!r}: expected {known}")
    if bundle.manifest.dinov3seg is not None:
        if options.engine == "openvino":
            raise EngineError(
                f"{bundle.manifest.name}: OpenVINO runs models with a cosine head; use onnxruntime"
            )
        way = DINOV3SEG_PIPELINE
    open_it: Callable[[Bundle, RuntimeOptions], Pipeline] = resolve_name(way)
    return open_it(bundle, options)


def choose_options(bundle: Bundle, options: RuntimeOptions) -> RuntimeOptions:
    """Put the fastest engine in the place of "auto"; see `choose_engine`.

    Raises:
        EngineError: no engine can be used.
    """
    if bundle.manifest.dinov3seg is not None:
        return replace(options, engine="onnxruntime")
    name = choose_engine(bundle, options, lambda name: open_vision(bundle, replace(options, engine=name)))
    return replace(options, engine=name)


def open_host_pipeline(bundle: Bundle, options: RuntimeOptions) -> Pipeline:
    """Open the pipeline on the processor; see `open_vision` for what can go wrong."""
    vision = open_vision(bundle, options)
    return HostPipeline(bundle, vision, options)


class HostPipeline:
    """The stages on the processor.

    Args:
        bundle: the model.
        vision: the engine that runs its vision graph.
        options: how.
    """

    def __init__(self, bundle: Bundle, vision: Engine, options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._options = options
        self.vision = vision
        self.prepare = Prepare(manifest, options.antialias, options.inference)
        self.encode_windows = EncodeWindows(manifest, vision, options.inference)
        self.merge = Merge(manifest, choose_refinement(manifest, options))
        self._name = NameSeen(bundle.graph_digest("vision"), self.merge, options.trace)

    def open_text(self) -> Engine:
        """Open the engine that runs the text graph."""
        return open_graph(self._bundle, "text", self._options)

    def encode(self, photo: Photo) -> ImageFeatures:
        """Go the way as far as no words are needed: it is by far the longer part."""
        lap = StageTimer(self._options.trace)
        with lap("resize"):
            prepared = self.prepare(photo)
        with lap("vision"):
            features = self.encode_windows(prepared)  # (B, D, h, w)
        return ImageFeatures(self._name.model, photo, prepared, features, lap.times)

    def segment(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels:
        """Go the rest of the way; see `NameSeen`."""
        return self._name(image_features, text, threshold=threshold, scores=scores)

    def label(self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool) -> Pixels:
        """Go the way once; the text is waited for when the features are there."""
        image_features = self.encode(photo)
        pixels = self.segment(image_features, text, threshold=threshold, scores=scores)
        return replace(pixels, timings={**image_features.timings, **pixels.timings})

    def close(self) -> None:
        """Give back what the pipeline holds: nothing, on the processor."""
