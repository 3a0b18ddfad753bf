"""The way of a photo through the model, as stages with one method each, composed in `HostPipeline.label`.

photo - Prepare ---> windows - EncodeWindows ---> features (B, D, h, w)
words - `text.TextEncoder`, meanwhile ---------------> text (N, D)        Merge --> labels (H, W)

A pipeline on a device has the same `label`; `Segmenter` takes either.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.bundle import Bundle, Head, Manifest, Precision
from ovsdino_runtime.engines import Engine, open_engine, open_vision
from ovsdino_runtime.errors import EngineError
from ovsdino_runtime.merge import Labels, merge_argmax, merge_geometry
from ovsdino_runtime.preprocess import (
    Floats,
    Photo,
    cut_windows,
    fit_size,
    normalise,
    resize_photo,
)
from ovsdino_runtime.trace import NO_TRACE, Trace
from ovsdino_runtime.windows import Window, plan_windows

Scores = npt.NDArray[np.float16]
Windows = Literal["model", "none"]
WINDOWS_AT_ONCE = 2  # more are no faster on a CPU, and each takes memory


@dataclass(frozen=True)
class PipelineOptions:
    """What a pipeline is opened with."""

    device: str = "cpu"
    engine: str = "onnxruntime"
    precision: Precision = "fp32"
    threads: int | None = None
    antialias: bool = True
    windows: Windows = "model"
    trace: Trace = NO_TRACE


DEFAULT_OPTIONS = PipelineOptions()


@dataclass(frozen=True, eq=False)
class Pixels:
    """What a pipeline gives: label 0 is the background where there is a threshold. Shape: (H, W) each."""

    labels: Labels
    scores: Scores | None
    timings: Mapping[str, float]


class Laps:
    """Times of a photo's stages [ms], in their order; each goes into the trace as well."""

    def __init__(self, trace: Trace) -> None:
        self.times: dict[str, float] = {}
        self._trace = trace

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        with self._trace.span(stage):
            yield
        self.times[stage] = round((time.perf_counter() - start) * 1000, 2)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo as the vision engine takes it."""

    size: tuple[int, int]  # height and width of the photo [px]
    resized: Photo  # (H', W', 3)
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Prepare:
    """Photo to windows: resize, and plan the cuts."""

    manifest: Manifest
    antialias: bool = True
    windows: Windows = "model"

    def __call__(self, photo: Photo) -> Prepared:
        """Prepare a photo. Shape: (H, W, 3)."""
        resized = self.resize(photo)
        return Prepared((photo.shape[0], photo.shape[1]), resized, tuple(self.plan(resized)))

    def resize(self, photo: Photo) -> Photo:
        """Bring a photo to the size at which the model works. Shape: (H, W, 3) -> (H', W', 3)."""
        limits = self.manifest.preprocessing
        height, width = fit_size(*photo.shape[:2], short_side=limits.short_side, long_side=limits.long_side)
        if self.windows == "none":
            height, width = self._whole(height, width)
        return resize_photo(photo, height, width, antialias=self.antialias)

    def plan(self, resized: Photo) -> list[Window]:
        """Plan the windows of a resized photo; without windows it is one."""
        height, width = resized.shape[:2]
        if self.windows == "none":
            return [Window(0, 0, height, width)]
        policy = self.manifest.windows
        return plan_windows(height, width, size=policy.size, stride=policy.stride)

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        """Whole patches where the graph takes any size, else the one size that it takes."""
        patch, size = self.manifest.model.get("patch_size"), self.manifest.windows.size
        pixels = self.manifest.graphs["vision"].inputs[0].shape  # (B, 3, H, W)
        if isinstance(patch, int) and all(isinstance(side, str) for side in pixels[2:]):
            return max(1, round(height / patch)) * patch, max(1, round(width / patch)) * patch
        return size, size


@dataclass(frozen=True)
class EncodeWindows:
    """Windows to features: normalise, cut, and run the vision engine on some at a time."""

    manifest: Manifest
    vision: Engine
    windows: Windows = "model"

    def __call__(self, resized: Photo, windows: Sequence[Window]) -> Floats:
        """Encode the windows of a resized photo. Shape: (H', W', 3) -> (B, D, h, w)."""
        pixels = normalise(resized, self.manifest.preprocessing)
        if self.windows == "none":  # nothing is cut
            whole = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (1, 3, H', W')
            return self.vision.run({"pixels": whole})["features"]
        size = self.manifest.windows.size
        features = [
            self.vision.run({"pixels": cut_windows(pixels, windows[i : i + WINDOWS_AT_ONCE], size)})
            for i in range(0, len(windows), WINDOWS_AT_ONCE)
        ]
        return np.concatenate([some["features"] for some in features])


@dataclass(frozen=True)
class Merge:
    """Features and text to labels: the cosine head, the windows' merge, and the background."""

    head: Head

    def __call__(
        self, prepared: Prepared, features: Floats, text: Floats, *, threshold: float | None
    ) -> tuple[Labels, Scores]:
        """Find each pixel's class and the confidence in it. Shape: (B, D, h, w), (N, D) -> (H, W) each."""
        grid = features.shape[2], features.shape[3]
        size = prepared.resized.shape[0], prepared.resized.shape[1]
        geometry = merge_geometry(prepared.windows, grid, resized=size, photo=prepared.size)
        labels, cosine = merge_argmax(features, text, geometry)  # (H, W) each
        confidence = 1 / (1 + np.exp(-(self.head.scale * cosine + self.head.bias)))  # (H, W) in (0, 1)
        if threshold is not None:  # unsure pixels are background, which is label 0
            unsure = confidence < threshold
            labels = np.where(unsure, 0, labels + 1).astype(np.uint16)
            confidence = np.where(unsure, 1 - confidence, confidence)
        return labels, confidence.astype(np.float16)


class Pipeline(Protocol):
    """The way of photos on one device. Shape: photo (H, W, 3) RGB, text (N, D) of unit length."""

    prepare: Prepare
    vision: Engine

    def open_text(self) -> Engine: ...

    def label(
        self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels: ...

    def close(self) -> None: ...


PIPELINES = {  # (device, engine) -> the function that opens the pipeline: (bundle, options) -> Pipeline
    ("cpu", "onnxruntime"): "ovsdino_runtime.pipeline:open_host_pipeline",
    ("cuda", "onnxruntime"): "ovsdino_runtime.device_open:open_device_pipeline",
    ("cuda", "tensorrt"): "ovsdino_runtime.device_open:open_device_pipeline",
    ("cuda", "tensorrt-rtx"): "ovsdino_runtime.device_open:open_device_pipeline",
}


def open_pipeline(bundle: Bundle, options: PipelineOptions) -> Pipeline:
    """Open the pipeline of a device and an engine; its module is imported when it is asked for.

    Raises:
        EngineError: there is none, it is not installed, or it does not reproduce the model.
    """
    way = PIPELINES.get((options.device, options.engine))
    if way is None:
        known = ", ".join(f"{device} with {engine}" for device, engine in PIPELINES)
        raise EngineError(f"device {options.device!r} with engine {options.engine!r}: expected {known}")
    open_it: Callable[[Bundle, PipelineOptions], Pipeline] = resolve_name(way)
    return open_it(bundle, options)


def open_host_pipeline(bundle: Bundle, options: PipelineOptions) -> Pipeline:
    """Open the pipeline on the processor; see `open_vision` for what can go wrong."""
    vision = open_vision(bundle, threads=options.threads, precision=options.precision)
    return HostPipeline(bundle, vision, options)


class HostPipeline:
    """The stages on the processor.

    Args:
        bundle: the model.
        vision: the engine that runs its vision graph.
        options: how.
    """

    def __init__(self, bundle: Bundle, vision: Engine, options: PipelineOptions = DEFAULT_OPTIONS) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._options = options
        self.vision = vision
        self.prepare = Prepare(manifest, options.antialias, options.windows)
        self.encode_windows = EncodeWindows(manifest, vision, options.windows)
        self.merge = Merge(manifest.head)

    def open_text(self) -> Engine:
        """Open the engine that runs the text graph."""
        return open_engine(self._bundle, "text", threads=self._options.threads)

    def label(self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool) -> Pixels:
        """Go the way once; the text is waited for when the features are there."""
        lap = Laps(self._options.trace)
        with lap("resize"):
            prepared = self.prepare(photo)
        with lap("vision"):
            features = self.encode_windows(prepared.resized, prepared.windows)  # (B, D, h, w)
        with lap("text"):
            embeddings = text.result()  # (N, D)
        with lap("merge"):
            labels, confidence = self.merge(prepared, features, embeddings, threshold=threshold)
        return Pixels(labels, confidence if scores else None, lap.times)

    def close(self) -> None:
        """Give back what the pipeline holds: nothing, on the processor."""
