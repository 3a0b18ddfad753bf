"""The pipeline from photo to labels: `HostPipeline` composes the `host_stages`.

photo - Prepare ---> windows - EncodeWindows ---> features (B, D, h, w)
words - `text.TextEncoder`, in parallel -------------> text (N, D)        Merge --> labels (H, W)
      |------------------ encode ------------------------|     |---------- segment ----------|

`device.pipeline.DevicePipeline` has the same methods for a GPU; `Segmenter` takes either.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pkgutil import resolve_name
from typing import Protocol, TypeVar

from ovsdino_runtime.base.errors import EngineError, PhotoError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.base.trace import NO_TRACE, Trace
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.engines.processor import choose_engine, open_graph, open_vision
from ovsdino_runtime.geometry.types import Floats, Labels, Mask, Photo, Scores
from ovsdino_runtime.pipelines.host_stages import EncodeWindows, Merge, Prepare, Prepared, choose_refinement

Features = TypeVar("Features", bound="ImageFeatures")


@dataclass(frozen=True, eq=False)
class Pixels:
    """Labels and confidence of a photo. With a threshold, label 0 is the background. Shape: (H, W) each."""

    labels: Labels
    scores: Scores | None
    timings: Mapping[str, float]


class StageTimer:
    """Measure the stages of a photo [ms], in order; times of a repeated stage are added up.

    Each measurement is also recorded in the trace.
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
    """Features of a photo, independent of class names: segment them with any number of class lists."""

    model: str  # digest of the vision graph: no other model's words fit
    photo: Photo  # (H, W, 3)
    prepared: Prepared
    features: Floats  # (B, D, h, w) on the host
    timings: Mapping[str, float]  # [ms] of the stages so far
    notes: tuple[str, ...] = field(default=(), kw_only=True)  # what had to be decided to read the photo
    valid: Mask | None = field(default=None, kw_only=True)  # (H, W); False: no data there


def check_model(image_features: ImageFeatures, kind: type[Features], model: str) -> Features:
    """Return the features if this model computed them.

    Raises:
        PhotoError: another model computed them.
    """
    if not isinstance(image_features, kind) or image_features.model != model:
        raise PhotoError("another model encoded this photo: its features mean nothing here; encode it again")
    return image_features


@dataclass(frozen=True)
class SegmentFeatures:
    """Compute labels from features and embeddings on the processor; waits for the embeddings."""

    model: str
    merge: Merge
    trace: Trace = NO_TRACE

    def __call__(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels:
        """Segment the features of a photo; the timings are those of this call only.

        Raises:
            PhotoError: another model computed the features.
        """
        check_model(image_features, ImageFeatures, self.model)
        lap = StageTimer(self.trace)
        with lap("text"):
            embeddings = text.result()  # (N, D)
        with lap("merge"):
            labels, confidence = self.merge(
                image_features.prepared, image_features.features, embeddings, threshold=threshold
            )
        return Pixels(labels, confidence if scores else None, lap.times)


class Pipeline(Protocol):
    """From photos to labels on one device. Shape: photo (H, W, 3) RGB, text (N, D) of unit length."""

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


DINOV3SEG_PIPELINES = {  # kind of device -> the function that opens a dinov3.seg model
    "cpu": "ovsdino_runtime.pipelines.dinov3seg_open:open_dinov3seg_pipeline",
    "cuda": "ovsdino_runtime.device.dinov3seg_open:open_dinov3seg_on_gpu",
}
PIPELINES = {  # (device, engine) -> the function that opens the pipeline: (bundle, options) -> Pipeline
    ("cpu", "onnxruntime"): "ovsdino_runtime.pipelines.pipeline:open_host_pipeline",
    ("cpu", "openvino"): "ovsdino_runtime.pipelines.pipeline:open_host_pipeline",
    ("cuda", "onnxruntime"): "ovsdino_runtime.device.open:open_device_pipeline",
    ("cuda", "tensorrt"): "ovsdino_runtime.device.open:open_device_pipeline",
    ("cuda", "tensorrt-rtx"): "ovsdino_runtime.device.open:open_device_pipeline",
}


def open_pipeline(bundle: Bundle, options: RuntimeOptions) -> Pipeline:
    """Open the pipeline for a device and an engine; imports its module on demand.

    Raises:
        EngineError: there is no such pipeline, the engine is not installed or does not reproduce the model.
    """
    if options.engine == "auto" and options.device == "cpu":
        options = choose_options(bundle, options)
    way = PIPELINES.get((options.device_kind, options.engine))
    if way is None:
        known = ", ".join(f"{device} with {engine}" for device, engine in PIPELINES)
        raise EngineError(f"device {options.device!r} with engine {options.engine!r}: expected {known}")
    if bundle.manifest.dinov3seg is not None:
        way = DINOV3SEG_PIPELINES[options.device_kind]
    open_it: Callable[[Bundle, RuntimeOptions], Pipeline] = resolve_name(way)
    return open_it(bundle, options)


def choose_options(bundle: Bundle, options: RuntimeOptions) -> RuntimeOptions:
    """Replace engine "auto" by the fastest engine; see `choose_engine`.

    Raises:
        EngineError: no engine works.
    """
    if bundle.manifest.dinov3seg is not None:
        return replace(options, engine="onnxruntime")
    name = choose_engine(bundle, options, lambda name: open_vision(bundle, replace(options, engine=name)))
    return replace(options, engine=name)


def open_host_pipeline(bundle: Bundle, options: RuntimeOptions) -> Pipeline:
    """Open the pipeline on the processor; raises as `open_vision`."""
    vision = open_vision(bundle, options)
    return HostPipeline(bundle, vision, options)


class HostPipeline:
    """The stages on the processor.

    Args:
        bundle: the model.
        vision: the engine that runs its vision graph.
        options: how the model runs.
    """

    def __init__(self, bundle: Bundle, vision: Engine, options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._options = options
        self.vision = vision
        self.prepare = Prepare(manifest, options.antialias, options.inference)
        self.encode_windows = EncodeWindows(manifest, vision, options.inference)
        self.merge = Merge(manifest, choose_refinement(manifest, options), options.presence)
        self._segment_features = SegmentFeatures(bundle.graph_digest("vision"), self.merge, options.trace)

    def open_text(self) -> Engine:
        """Open the engine that runs the text graph."""
        return open_graph(self._bundle, "text", self._options)

    def encode(self, photo: Photo) -> ImageFeatures:
        """Run everything that does not depend on the class names: by far the longer part."""
        lap = StageTimer(self._options.trace)
        with lap("resize"):
            prepared = self.prepare(photo)
        with lap("vision"):
            features = self.encode_windows(prepared)  # (B, D, h, w)
        return ImageFeatures(
            model=self._segment_features.model,
            photo=photo,
            prepared=prepared,
            features=features,
            timings=lap.times,
        )

    def segment(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels:
        """Segment the features of a photo; see `SegmentFeatures`."""
        return self._segment_features(image_features, text, threshold=threshold, scores=scores)

    def label(self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool) -> Pixels:
        """Encode and segment a photo; the embeddings are awaited after the features are computed."""
        image_features = self.encode(photo)
        pixels = self.segment(image_features, text, threshold=threshold, scores=scores)
        return replace(pixels, timings={**image_features.timings, **pixels.timings})

    def close(self) -> None:
        """Release resources: on the processor there are none."""
