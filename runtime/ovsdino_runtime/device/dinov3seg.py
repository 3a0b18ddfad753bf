"""The pipeline of a dinov3.seg model on a GPU: its graphs read and write one piece of device memory.

copy       photo's view and windows ->
vision     windows, batch by batch; whole ->  (host: fuse)  -> refine; late; decoder -> logits, by portion
guidance   guidance, meanwhile -------------------------------------|  one event joins them

The host averages the features of windows and whole between two graphs, and merges the logits of some classes
while the device decodes the next ones. SAM's maps and the refined costs never leave the device in `label`.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.cuda.driver import CudaStream, Device, Event
from ovsdino_runtime.device.clock import DeviceClock
from ovsdino_runtime.device.dinov3seg_memory import Dinov3segMemory, part_of
from ovsdino_runtime.device.held import Held
from ovsdino_runtime.device.plan import plan_batches
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.engines.stream_engine import DeviceTensor, StreamEngine
from ovsdino_runtime.geometry.merge import BestClass
from ovsdino_runtime.geometry.preprocess import cut_windows, normalise
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segFeatures, dinov3seg_of, model_digest
from ovsdino_runtime.pipelines.dinov3seg_stages import (
    DECODED_AT_ONCE,
    ChooseClasses,
    FuseFeatures,
    patch_size,
    portions,
    resize_map,
    sigmoid,
    spread,
)
from ovsdino_runtime.pipelines.host_stages import Prepare, Prepared, choose_refinement, put_background
from ovsdino_runtime.pipelines.pipeline import ImageFeatures, Pixels, check_model

OpenStage = Callable[[str, CudaStream], StreamEngine]  # a stage such as "late", and the stream of its runs
OpenText = Callable[[CudaStream], Engine]


class Dinov3segDevicePipeline:
    """The stages of dinov3.seg on a GPU. One photo at a time: memory and streams are shared.

    Args:
        bundle: the model.
        device: runs all graphs.
        open_stage: opens the engine of a stage for a stream.
        open_text: opens the engine of the text graph for a stream.
        options: how the model runs; see `Dinov3segPipeline`.

    Raises:
        EngineError: an engine cannot be opened, or the model does not work as the options ask.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        *,
        open_stage: OpenStage,
        open_text: OpenText,
        options: RuntimeOptions = DEFAULT_OPTIONS,
    ) -> None:
        manifest = bundle.manifest
        if options.inference == "both":
            raise EngineError(f"{manifest.name} averages windows and the whole itself; use inference 'slide'")
        choose_refinement(manifest, options)
        self._manifest, self._device, self._options, self._open_text = manifest, device, options, open_text
        self._model = model_digest(bundle)
        self.dinov3seg = dinov3seg_of(manifest)
        self.prepare = Prepare(manifest, inference=options.inference)
        self.fuse = FuseFeatures(self.dinov3seg, patch_size(manifest))
        self.choose = ChooseClasses(self.dinov3seg)
        self._lock = threading.Lock()
        side = self.dinov3seg.view
        windows = len(self.prepare.plan(np.empty((side, side, 3), np.float32)))
        self._windows = windows if options.inference == "slide" else 0
        stages = [stage for stage in manifest.graphs if "." not in stage and stage != "text"]
        with device.current():
            names = ("copy", "vision", "guidance", "text")
            self._streams = {name: device.make_stream(name) for name in names}
            self._engines = {stage: open_stage(stage, self._stream_of(stage)) for stage in stages}
            self.memory = Dinov3segMemory(device, self._photo_shapes())
            self._events = {name: device.make_event() for name in ("uploaded", "encoded", "guided")}
            self._decoded: list[Event] = []  # one for each portion of classes
            self._at_once = DECODED_AT_ONCE  # classes in a portion
            self._clock = DeviceClock(device, options.trace)
        self.vision = self._engines["vision"]
        self._held = Held(
            device, [*self._streams.values()], engines=[*self._engines.values()], memory=self.memory
        )
        self._finalizer = weakref.finalize(self, self._held.release)

    def open_text(self) -> Engine:
        """Open the engine that runs the text graph."""
        with self._device.current():
            return self._open_text(self._streams["text"])

    def encode(self, photo: Photo) -> Dinov3segFeatures:
        """Run everything that does not depend on the class names, and copy the result to the host.

        Raises:
            EngineError: engine or device failed (the pipeline stays usable), or the pipeline is closed.
        """
        with self._photo():
            prepared = self._encode(photo)
            features, maps = self._download()
            return Dinov3segFeatures(
                model=self._model,
                photo=photo,
                prepared=prepared,
                features=features,
                timings=self._clock.finish(),
                guidance=maps,
            )

    def segment(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels:
        """Segment features that are on the host; raises as `Dinov3segPipeline.segment` and `encode`."""
        image_features = check_model(image_features, Dinov3segFeatures, self._model)
        with self._photo():
            self._upload(image_features)
            size = image_features.prepared.size
            return self._label(size, text, threshold=threshold, scores=scores, features=image_features)

    def label(self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool) -> Pixels:
        """Encode and segment a photo; the embeddings are awaited while the device works.

        Raises:
            EngineError: as `encode`.
        """
        with self._photo():
            prepared = self._encode(photo)
            return self._label(prepared.size, text, threshold=threshold, scores=scores)

    def logits(self, image_features: Dinov3segFeatures, text: Floats) -> Floats:
        """Return the logits of at most ``pad_length`` classes. Shape: text (n, W) -> (n, 4g, 4g)."""
        with self._photo():
            self._upload(image_features)
            logits = [self._wait(portion).copy() for portion in self._decode(text, DECODED_AT_ONCE)]
            return np.concatenate(logits)

    def close(self) -> None:
        """Free the device memory; wait for a photo in flight. Also happens on garbage collection."""
        with self._lock:
            self._finalizer()

    @contextmanager
    def _photo(self) -> Iterator[None]:
        """Hold the pipeline for one photo; after a failure, wait for all that is in flight."""
        with self._lock:
            if self._held.closed:
                raise EngineError(f"{self._device.name}: the model is closed; load it again")
            with self._device.current():
                try:
                    self._clock.begin(self._streams["copy"])
                    yield
                except BaseException:
                    self._held.wait()
                    raise

    def _encode(self, photo: Photo) -> Prepared:
        """Submit the graphs up to the refined features, which may still be in flight afterwards."""
        prepared = self.prepare(photo)
        copy, vision, guidance = (self._streams[name] for name in ("copy", "vision", "guidance"))
        at, host, span = self.memory.photo.at, self.memory.photo.host, self._clock.span
        self._fill(prepared)
        with span("upload", copy, "copy"):
            for name in ("view", "windows"):
                if name in at:
                    copy.copy_in(at[name].address, host[name])
        copy.record(self._events["uploaded"])
        for stream in (vision, guidance):
            stream.wait(self._events["uploaded"])
        if "guidance" in self._engines:
            with span("guidance", guidance, "guidance"):
                self._enqueue("guidance", {"pixels": at["view"]}, at)
            guidance.record(self._events["guided"])
        self._encode_windows()
        with span("fuse", vision, "vision"):
            self._fuse(prepared)
        if "refine" in self._engines:
            with span("refine", vision, "vision"):
                tensors = {"pixels": at["view"], "features": at["features"]}
                self._enqueue("refine", tensors, {"refined": at["refined"]})
        if "guidance" in self._engines:
            vision.wait(self._events["guided"])
        return prepared

    def _fill(self, prepared: Prepared) -> None:
        """Write the normalised view and its windows to pinned memory."""
        view = normalise(prepared.resized, self._manifest.preprocessing)  # (V, V, 3)
        host, size = self.memory.photo.host, self._manifest.windows.size
        host["view"][0] = view.transpose(2, 0, 1)
        if self._windows:
            host["windows"][: self._windows] = cut_windows(view, prepared.windows, size)
        if self.dinov3seg.whole == "window":  # the last one of the windows
            host["windows"][self._windows :] = resize_map(host["view"], size)

    def _encode_windows(self) -> None:
        """Submit the vision graph, batch by batch, and the whole graph if the model has it."""
        vision, at, span = self._streams["vision"], self.memory.photo.at, self._clock.span
        if "windows" in at:
            with span("vision", vision, "vision"):
                for batch in plan_batches(
                    at["windows"].shape[0], max_count=self.vision.max_count, contexts=1
                ):
                    pixels = part_of(at["windows"], batch.first, batch.count)
                    features = part_of(at["local"], batch.first, batch.count)
                    self._enqueue("vision", {"pixels": pixels}, {"features": features})
        if "whole" in self._engines:
            with span("whole", vision, "vision"):
                self._enqueue("whole", {"pixels": at["view"]}, {"features": at["whole"]})

    def _fuse(self, prepared: Prepared) -> None:
        """Average the features of windows and whole on the host; the guidance graph may run meanwhile."""
        vision, at, host = self._streams["vision"], self.memory.photo.at, self.memory.photo.host
        seen = [name for name in ("local", "whole") if name in at]
        for name in seen:
            vision.copy_out(host[name], at[name].address)
        vision.record(self._events["encoded"])
        self._events["encoded"].synchronize()
        whole = host["whole"] if "whole" in host else host["local"][self._windows :]
        local = host["local"][: self._windows] if self._windows else None
        host["features"][...] = self.fuse(prepared.windows, local, whole)
        vision.copy_in(at["features"].address, host["features"])

    def _label(
        self,
        size: tuple[int, int],
        text: Future[Floats],
        *,
        threshold: float | None,
        scores: bool,
        features: Dinov3segFeatures | None = None,
    ) -> Pixels:
        """Label the photo whose features lie on the device; `features` are their copy, if there is one."""
        start = time.perf_counter()
        embeddings = text.result()  # (N, W)
        waited = time.perf_counter() - start
        if len(embeddings) > self.dinov3seg.pad_length:
            fused = self._download_features() if features is None else features.features
            chosen = self.choose(fused, embeddings)  # (K,)
        else:
            chosen = np.arange(len(embeddings))
        fine = self._fine[-1]
        best = BestClass(spread(self.dinov3seg.view, fine, size))
        merged = 0.0
        for portion in self._decode(embeddings[chosen], min(DECODED_AT_ONCE, best.max_count)):
            probabilities = sigmoid(self._wait(portion))  # (n, 4g, 4g)
            start = time.perf_counter()
            best.take(probabilities.transpose(1, 2, 0), first=portion.start)
            merged += time.perf_counter() - start
        self._streams["vision"].synchronize()  # its times are read below
        labels = chosen[best.labels].astype(np.uint16)
        labels, confidence = put_background(labels, best.scores, threshold)
        host_times = {"text": round(1000 * waited, 2), "merge": round(1000 * merged, 2)}
        return Pixels(labels, confidence if scores else None, self._clock.finish() | host_times)

    def _decode(self, text: Floats, at_once: int) -> list[slice]:
        """Submit late and decoder graphs, and the download of the logits; return the portions of classes."""
        vision, span = self._streams["vision"], self._clock.span
        count, classes = len(text), self.memory.classes
        costs = self._manifest.graphs["late"].outputs[0].shape[1:]
        shapes = {"text": text.shape, "costs": (count, *map(int, costs)), "logits": (count, *self._fine)}
        classes.lay_out(shapes)
        classes.host["text"][...] = text
        vision.copy_in(classes.at["text"].address, classes.host["text"])
        maps = {name: self.memory.photo.at[name] for name in self._maps}
        with span("late", vision, "vision"):
            features = self.memory.photo.at["refined" if "refine" in self._engines else "features"]
            tensors = {**maps, "features": features, "text": classes.at["text"]}
            self._enqueue("late", tensors, {"costs": classes.at["costs"]})
        parts = list(portions(count, at_once))
        while len(self._decoded) < len(parts):
            self._decoded.append(self._device.make_event())
        with span("decoder", vision, "vision"):
            for part, event in zip(parts, self._decoded, strict=False):
                rows = part.stop - part.start
                logits = part_of(classes.at["logits"], part.start, rows)
                inputs = {**maps, "costs": part_of(classes.at["costs"], part.start, rows)}
                self._enqueue("decoder", inputs, {"logits": logits})
                vision.copy_out(classes.host["logits"][part], logits.address)
                vision.record(event)
        self._at_once = at_once
        return parts

    def _wait(self, portion: slice) -> Floats:
        """Wait for the logits of a portion. Shape: -> (n, 4g, 4g), in pinned memory."""
        self._decoded[portion.start // self._at_once].synchronize()
        return self.memory.classes.host["logits"][portion]

    def _download(self) -> tuple[Floats, dict[str, Floats]]:
        """Copy the refined features and SAM's maps to the host, and wait for all of the photo's work."""
        vision, at, host = self._streams["vision"], self.memory.photo.at, self.memory.photo.host
        for name in self._maps:
            vision.copy_out(host[name], at[name].address)
        features = self._download_features()
        return features, {name: host[name].copy() for name in self._maps}

    def _download_features(self) -> Floats:
        """Copy the refined features to the host and wait for them. Shape: (1, D, g, g)."""
        name = "refined" if "refine" in self._engines else "features"
        vision = self._streams["vision"]
        vision.copy_out(self.memory.photo.host[name], self.memory.photo.at[name].address)
        vision.synchronize()
        return self.memory.photo.host[name].copy()

    def _upload(self, image_features: Dinov3segFeatures) -> None:
        """Copy features and SAM's maps from the host to the device."""
        at, host, vision = self.memory.photo.at, self.memory.photo.host, self._streams["vision"]
        name = "refined" if "refine" in self._engines else "features"
        for target, values in {name: image_features.features, **image_features.guidance}.items():
            host[target][...] = values
            vision.copy_in(at[target].address, host[target])

    def _enqueue(
        self, stage: str, tensors: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]
    ) -> None:
        """Submit a graph to its stream; of the tensors at hand it gets those that it reads and writes."""
        graph = self._manifest.graphs[stage]  # other precisions have the same inputs and outputs
        self._engines[stage].enqueue(
            0,
            {tensor.name: tensors[tensor.name] for tensor in graph.inputs},
            outputs={tensor.name: outputs[tensor.name] for tensor in graph.outputs},
            stream=self._stream_of(stage),
        )

    def _stream_of(self, stage: str) -> CudaStream:
        return self._streams["guidance" if stage == "guidance" else "vision"]

    @property
    def _maps(self) -> tuple[str, ...]:
        """Name SAM's maps."""
        graph = self._manifest.graphs.get("guidance")
        return () if graph is None else tuple(tensor.name for tensor in graph.outputs)

    @property
    def _fine(self) -> tuple[int, int]:
        """Return the sides of a class's logits."""
        height, width = self._manifest.graphs["decoder"].outputs[0].shape[1:]
        return int(height), int(width)

    def _photo_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors that do not depend on the classes."""
        graphs, size, view = self._manifest.graphs, self._manifest.windows.size, self.dinov3seg.view
        count = self._windows + (self.dinov3seg.whole == "window")
        cells = tuple(int(side) for side in graphs["vision"].outputs[0].shape[1:])  # D, s, s
        grid = view // patch_size(self._manifest)
        shapes: dict[str, tuple[int, ...]] = {"view": (1, 3, view, view)}
        if count:
            shapes |= {"windows": (count, 3, size, size), "local": (count, *cells)}
        shapes["features"] = (1, cells[0], grid, grid)
        for stage, name in (("whole", "whole"), ("refine", "refined")):
            if stage in graphs:
                shapes[name] = tuple(int(side) for side in graphs[stage].outputs[0].shape)
        if "guidance" in graphs:
            outputs = graphs["guidance"].outputs
            shapes |= {tensor.name: tuple(int(side) for side in tensor.shape) for tensor in outputs}
        return shapes
