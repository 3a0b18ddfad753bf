"""The pipeline of a dinov3.seg model: `Dinov3segPipeline` composes the `dinov3seg_stages`."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.bundle.manifest import Dinov3seg, Manifest
from ovsdino_runtime.engines.onnxruntime import Engine, open_engine
from ovsdino_runtime.geometry.merge import BestClass
from ovsdino_runtime.geometry.preprocess import normalise
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.pipelines.dinov3seg_stages import (
    ChooseClasses,
    DecodeCosts,
    FuseFeatures,
    GraphStage,
    patch_size,
    portions,
    resize_map,
    spread,
)
from ovsdino_runtime.pipelines.host_stages import EncodeWindows, Prepare, choose_refinement, put_background
from ovsdino_runtime.pipelines.pipeline import ImageFeatures, Pixels, StageTimer, check_model


@dataclass(frozen=True, eq=False)
class Dinov3segFeatures(ImageFeatures):
    """Features of a photo from a dinov3.seg model; ``features`` (1, D, g, g) are fused and refined."""

    guidance: Mapping[str, Floats]  # SAM's maps by the names of their inputs; empty where there is no SAM


class Dinov3segPipeline:
    """The stages of dinov3.seg. A thread computes SAM's guidance while the vision graph runs.

    Args:
        bundle: the model.
        engines: engines of its graphs, by stage: all graphs except text.
        options: how the model runs. ``inference="whole"`` leaves the windows out; ``antialias`` has no
            effect, because the network's view is always resized with two taps per axis.
        open_text: opens the engine of the text graph; None opens it on the CPU.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        *,
        options: RuntimeOptions = DEFAULT_OPTIONS,
        open_text: Callable[[], Engine] | None = None,
    ) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._open_text = open_text or (lambda: open_engine(bundle, "text", threads=options.threads))
        self._options = options
        self._model = model_digest(bundle)
        self.dinov3seg = dinov3seg_of(manifest)
        self.stages = {name: GraphStage(manifest.graphs[name], engine) for name, engine in engines.items()}
        self.vision = engines["vision"]
        if options.inference == "both":
            raise EngineError(f"{manifest.name} averages windows and the whole itself; use inference 'slide'")
        choose_refinement(manifest, options)
        self.prepare = Prepare(manifest, inference=options.inference)
        self.encode_windows = EncodeWindows(manifest, self.vision)
        self.fuse = FuseFeatures(self.dinov3seg, patch_size(manifest))
        self.choose = ChooseClasses(self.dinov3seg)
        self.decode = DecodeCosts(self.stages["decoder"])
        self._beside = ThreadPoolExecutor(1, "guidance")

    def open_text(self) -> Engine:
        """Open the engine that runs the text graph."""
        return self._open_text()

    def encode(self, photo: Photo) -> Dinov3segFeatures:
        """Run everything that does not depend on the class names."""
        lap = StageTimer(self._options.trace)
        with lap("resize"):
            prepared = self.prepare(photo)
            view = normalise(prepared.resized, self._bundle.manifest.preprocessing)  # (V, V, 3)
            pixels = np.ascontiguousarray(view.transpose(2, 0, 1)[None])  # (1, 3, V, V)
        guidance = self._beside.submit(self.guide, pixels)
        local = None
        if self._options.inference == "slide":
            with lap("vision"):
                local = self.encode_windows(prepared)  # (B, D, s, s)
        with lap("whole"):
            whole = self.see_whole(pixels)  # (1, D, g, g)
        with lap("refine"):
            features = self.refine(pixels, self.fuse(prepared.windows, local, whole))  # (1, D, g, g)
        with lap("guidance"):
            maps = guidance.result()
        return Dinov3segFeatures(
            model=self._model,
            photo=photo,
            prepared=prepared,
            features=features,
            timings=lap.times,
            guidance=maps,
        )

    def guide(self, pixels: Floats) -> dict[str, Floats]:
        """Run SAM's guidance if the model has it: (1, 3, V, V) -> maps by name."""
        if "guidance" not in self.stages:
            return {}
        with self._options.trace.span("guidance graph"):
            return self.stages["guidance"]({"pixels": pixels})

    def see_whole(self, pixels: Floats) -> Floats:
        """Encode the view as a whole: (1, 3, V, V) -> (1, D, g', g')."""
        if self.dinov3seg.whole == "window":
            pixels = resize_map(pixels, self._bundle.manifest.windows.size)
            return self.stages["vision"]({"pixels": pixels})["features"]
        return self.stages["whole"]({"pixels": pixels})["features"]

    def refine(self, pixels: Floats, features: Floats) -> Floats:
        """Apply early refinement if the model has it. Shape of features: (1, D, g, g), kept."""
        if "refine" not in self.stages:
            return features
        return self.stages["refine"]({"pixels": pixels, "features": features})["refined"]

    def refine_costs(self, image_features: Dinov3segFeatures, text: Floats) -> Floats:
        """Correlate, then apply late refinement: text (n, W), n <= ``pad_length`` -> costs (n, C, g, g)."""
        return self.stages["late"](
            {**image_features.guidance, "features": image_features.features, "text": text}
        )["costs"]

    def logits(self, image_features: Dinov3segFeatures, text: Floats) -> Floats:
        """Return the logits of at most ``pad_length`` classes. Shape: text (n, W) -> (n, 4g, 4g)."""
        return self.decode.logits(self.refine_costs(image_features, text), image_features.guidance)

    def segment(
        self, image_features: ImageFeatures, text: Future[Floats], *, threshold: float | None, scores: bool
    ) -> Pixels:
        """Segment the features of a photo; memory does not grow with the number of classes.

        Raises:
            PhotoError: another model computed the features.
        """
        image_features = check_model(image_features, Dinov3segFeatures, self._model)
        lap = StageTimer(self._options.trace)
        with lap("text"):
            embeddings = text.result()  # (N, W)
        with lap("late"):
            chosen = self.choose(image_features.features, embeddings)  # (K,)
            costs = self.refine_costs(image_features, embeddings[chosen])  # (K, C, g, g)
        fine = 4 * costs.shape[-1]
        best = BestClass(spread(self.dinov3seg.view, fine, image_features.prepared.size))
        for portion in portions(len(costs), best.max_count):
            with lap("decoder"):
                probabilities = self.decode(costs[portion], image_features.guidance)  # (n, 4g, 4g)
            with lap("merge"):
                best.take(probabilities.transpose(1, 2, 0), first=portion.start)
        labels = chosen[best.labels].astype(np.uint16)
        labels, confidence = put_background(labels, best.scores, threshold)
        return Pixels(labels, confidence if scores else None, lap.times)

    def label(self, photo: Photo, text: Future[Floats], *, threshold: float | None, scores: bool) -> Pixels:
        """Encode and segment a photo; the embeddings are awaited after the features are computed."""
        image_features = self.encode(photo)
        pixels = self.segment(image_features, text, threshold=threshold, scores=scores)
        return replace(pixels, timings={**image_features.timings, **pixels.timings})

    def close(self) -> None:
        """Stop the thread."""
        self._beside.shutdown()


def model_digest(bundle: Bundle) -> str:
    """Hash all FP32 graphs of a model: other precisions of it have the same digest."""
    digests = [bundle.graph_digest(name) for name in sorted(bundle.manifest.graphs) if "." not in name]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def dinov3seg_of(manifest: Manifest) -> Dinov3seg:
    """Return the dinov3.seg section of a manifest.

    Raises:
        BundleError: the model is not a dinov3.seg.
    """
    if manifest.dinov3seg is None:
        raise BundleError(f"{manifest.name} has a cosine head and no decoder; use HostPipeline")
    return manifest.dinov3seg
