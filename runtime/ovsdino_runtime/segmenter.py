"""Name every pixel of photos: a model, its pipeline on some device, and the text beside it."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, OptionChanges, RuntimeOptions
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.photo import to_photo
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.bundle.bundle import Bundle, at_short_side, load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.geometry.windows import Window
from ovsdino_runtime.pipelines.host_stages import EncodeWindows
from ovsdino_runtime.pipelines.pipeline import HostPipeline, ImageFeatures, Pipeline, Pixels, open_pipeline
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import ClassEncoder, TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary, as_vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

KEPT = 8  # vocabularies whose embeddings stay: photos, and those who ask at the same time, often share them


class Segmenter:
    """Names every pixel of photos. Make one with `Segmenter.load`, then call it.

    Args:
        bundle: the model.
        vision: the engine that runs its vision graph.
        text: encodes classes.
        templates: prompts around each word; None takes the bundle's own.
        antialias: how photos are made smaller; see `resize_photo`.
        pipeline: the way of photos; None goes through ``vision`` on the processor.
    """

    def __init__(
        self,
        bundle: Bundle,
        vision: Engine,
        text: ClassEncoder,
        *,
        templates: Sequence[str] | None = None,
        antialias: bool = True,
        pipeline: Pipeline | None = None,
    ) -> None:
        self.bundle = bundle
        self.templates = tuple(templates or bundle.manifest.templates)
        self.pipeline = pipeline or HostPipeline(bundle, vision, RuntimeOptions(antialias=antialias))
        self._text = text
        self._beside = ThreadPoolExecutor(1, "text")  # encodes text while windows are in flight
        self._texts: dict[tuple[tuple[str, ...], ...], Future[Floats]] = {}  # the last ones, oldest first
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        options: RuntimeOptions | None = None,
        **changes: "Unpack[OptionChanges]",
    ) -> "Segmenter":
        """Open a model.

        ``Segmenter.load("nano", threads=2)`` is ``Segmenter.load("nano", RuntimeOptions(threads=2))``.

        Args:
            model: the name of a packaged model, or the path of a bundle.
            options: how it runs; None takes the defaults.
            changes: fields of `RuntimeOptions` that differ from ``options``.

        Raises:
            BundleError: no such model, its bundle is damaged, or it does not work at that short side.
            EngineError: the engine is not installed, or does not reproduce the model.
            TypeError: ``changes`` names a field that `RuntimeOptions` does not have.
        """
        options = replace(options or DEFAULT_OPTIONS, **changes)
        bundle = load_bundle(find_bundle(model))
        if options.short_side is not None:
            bundle = at_short_side(bundle, options.short_side)
        pipeline = open_pipeline(bundle, options)
        cache = TextCache(cache_dir() / "text.sqlite3")
        text = TextEncoder(bundle, cache, engine=pipeline.open_text, trace=options.trace)
        return cls(bundle, pipeline.vision, text, templates=options.templates, pipeline=pipeline)

    def __call__(
        self,
        image: "str | Path | Photo | Image",
        classes: str | Sequence[str] | Vocabulary,
        *,
        background: float | None = None,
        background_classes: str | None = None,
        scores: bool = True,
    ) -> Segmentation:
        """Give each pixel of a photo one of the classes.

        Args:
            image: a path, an RGB array (H, W, 3) or a Pillow image.
            classes: such as "cat, car|automobile, sky" or ["cat", "car|automobile", "sky"], or a vocabulary.
            background: confidence in 0..1 below which a pixel is background, label 0; None: only where the
                vocabulary has a background, at the model's own threshold, or at 0 where there are others.
            others: what is background as well: words as in ``classes``, or the name of a packaged vocabulary,
                such as "surroundings".
            scores: give each pixel's confidence as well; a GPU is a little faster without.

        Raises:
            PhotoError: the photo cannot be read.
            ClassesError: the classes make no valid vocabulary, or the threshold is not in 0..1.
        """
        vocabulary = as_vocabulary(
            classes, background=background is not None, background_classes=background_classes
        )
        threshold = self._threshold(vocabulary, background)
        photo, decode = _decode(image)
        text = self._begin_text(vocabulary)  # (N, D), when it is there
        pixels = self.pipeline.label(photo, text, threshold=threshold, scores=scores)
        pixels = replace(pixels, timings={"decode": decode, **pixels.timings})
        return self._segmentation(photo, pixels, vocabulary, threshold)

    def encode(self, image: "str | Path | Photo | Image") -> ImageFeatures:
        """Do all that needs no words, once for any number of word lists; see `name`.

        Args:
            image: a path, an RGB array (H, W, 3) or a Pillow image.

        Raises:
            PhotoError: the photo cannot be read.
        """
        photo, decode = _decode(image)
        image_features = self.pipeline.encode(photo)
        return replace(image_features, timings={"decode": decode, **image_features.timings})

    def segment(
        self,
        image_features: ImageFeatures,
        classes: str | Sequence[str] | Vocabulary,
        *,
        background: float | None = None,
        background_classes: str | None = None,
        scores: bool = True,
    ) -> Segmentation:
        """Give each pixel of a photo that was seen one of the classes, as a call with the photo itself does.

        Args:
            seen: by this model; the way there may have been on another device.
            classes, background, others, scores: as in a call.

        Returns:
            The same as the call, with the timings of the naming alone.

        Raises:
            PhotoError: another model saw the photo.
            ClassesError: the classes make no valid vocabulary, or the threshold is not in 0..1.
        """
        vocabulary = as_vocabulary(
            classes, background=background is not None, background_classes=background_classes
        )
        threshold = self._threshold(vocabulary, background)
        text = self._begin_text(vocabulary)  # (N, D), when it is there
        pixels = self.pipeline.segment(image_features, text, threshold=threshold, scores=scores)
        return self._segmentation(image_features.photo, pixels, vocabulary, threshold)

    @property
    def vision(self) -> Engine:
        """The engine that runs the vision graph."""
        return self.pipeline.vision

    def close(self) -> None:
        """Give back threads and what the device holds; a segmenter that is dropped does so by itself."""
        self._beside.shutdown()
        self.pipeline.close()

    def resize(self, photo: Photo) -> Photo | Floats:
        """Bring a photo to the size at which the model works. Shape: (H, W, 3) -> (H', W', 3)."""
        return self.pipeline.prepare.resize(photo)

    def plan(self, resized: Photo | Floats) -> list[Window]:
        """Plan the windows of a resized photo."""
        return self.pipeline.prepare.plan(resized)

    def encode_windows(self, resized: Photo | Floats, windows: Sequence[Window]) -> Floats:
        """Run the vision engine on windows, some at a time. Shape: (H', W', 3) -> (B, D, h, w)."""
        prepare, vision = self.pipeline.prepare, self.pipeline.vision
        return EncodeWindows(self.bundle.manifest, vision, prepare.inference)(resized, windows)

    def encode_text(self, vocabulary: Vocabulary) -> Floats:
        """Encode a vocabulary's entries with this segmenter's templates. Shape: (N, D), unit length."""
        return self._begin_text(vocabulary).result()

    def _begin_text(self, vocabulary: Vocabulary) -> Future[Floats]:
        with self._lock:
            text = self._texts.pop(vocabulary.entries, None)
            if text is None or (text.done() and text.exception()):
                text = self._beside.submit(self._text.encode_classes, vocabulary, self.templates)
            self._texts[vocabulary.entries] = text
            if len(self._texts) > KEPT:
                del self._texts[next(iter(self._texts))]
        return text

    def _segmentation(
        self, photo: Photo, pixels: Pixels, vocabulary: Vocabulary, threshold: float | None
    ) -> Segmentation:
        labels = pixels.labels
        if vocabulary.background_classes:
            labels = np.where(labels < len(vocabulary.names), labels, 0).astype(labels.dtype)
        return Segmentation(
            photo=photo,
            labels=labels,
            scores=pixels.scores,
            classes=vocabulary.names,
            background=threshold,
            background_classes=tuple(words[0] for words in vocabulary.background_classes),
            model=self.bundle.manifest.name,
            engine=self.pipeline.vision.description,
            timings=pixels.timings,
        )

    def _threshold(self, vocabulary: Vocabulary, asked: float | None) -> float | None:
        if asked is not None and not 0 <= asked <= 1:
            raise ClassesError(f"the background's threshold must be in 0..1, got {asked}")
        if asked is None and vocabulary.background:
            return 0.0 if vocabulary.background_classes else self.bundle.manifest.head.background
        return asked


def _decode(image: "str | Path | Photo | Image") -> tuple[Photo, float]:
    """Give the photo, and how long it took [ms]."""
    start = time.perf_counter()
    photo = to_photo(image)  # (H, W, 3)
    return photo, round((time.perf_counter() - start) * 1000, 2)
