"""Segment photos into classes that the caller names: a pipeline on a device, and a text encoder."""

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, overload

import numpy as np

from ovsdino_runtime.base.decoded_photo import DecodedPhoto
from ovsdino_runtime.base.errors import EngineError, OptionError
from ovsdino_runtime.base.image_input import Channels, ImageInput, decode_input
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, OptionChanges, RuntimeOptions
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.segmentation import Segmentation, without_no_data
from ovsdino_runtime.bundle.bundle import Bundle, Head, at_short_side, load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.engines.onnxruntime import Engine, OnnxRuntimeEngine
from ovsdino_runtime.geometry.types import Floats
from ovsdino_runtime.pipelines.host_stages import takes_any_size
from ovsdino_runtime.pipelines.pipeline import HostPipeline, ImageFeatures, Pipeline, Pixels, open_pipeline
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.class_lists import Background, Classes, choose_classes
from ovsdino_runtime.text.encoder import ClassEncoder, TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary, check_templates

if TYPE_CHECKING:
    from typing_extensions import Unpack

KEPT = 8  # vocabularies whose embeddings are kept: consecutive photos and concurrent calls often share one
SINGLE_CLASS_THRESHOLD = 0.2  # measured with nano


class Segmenter:
    """Segment photos into classes that the caller names. Open a model with `Segmenter.load`.

    Call the segmenter with a photo. Use `encode` and `segment` to segment one photo with several class lists,
    and `Stream` for videos and many photos. Close it with `close` or a ``with`` statement. All methods may be
    called from several threads.

    Example:
        >>> from ovsdino_runtime import Segmenter
        >>> with Segmenter.load("nano") as segmenter:
        ...     segmentation = segmenter("street.jpg", "road, car|taxi, building, sky")
        >>> segmentation.classes
        ('road', 'car', 'building', 'sky')
        >>> segmentation.labels.shape  # (height, width) of the photo
        (480, 640)

    Args:
        bundle: the model.
        vision: the engine that runs its vision graph.
        text: embeds classes.
        templates: prompts around each word; None uses the bundle's own.
        antialias: how photos are shrunk; see `resize_photo`.
        pipeline: computes labels from photos; None runs ``vision`` on the CPU.
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
        self.templates = check_templates(templates or bundle.manifest.templates)
        self.pipeline = pipeline or HostPipeline(bundle, vision, RuntimeOptions(antialias=antialias))
        self._text = text
        self._beside = ThreadPoolExecutor(1, "text")  # encodes text while windows are in flight
        self._texts: dict[tuple[tuple[str, ...], ...], Future[Floats]] = {}  # the last ones, oldest first
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        options: RuntimeOptions | None = None,
        **changes: "Unpack[OptionChanges]",
    ) -> "Segmenter":
        """Open a model.

        Example:
            >>> Segmenter.load("nano")  # on the CPU, with all processors
            >>> Segmenter.load("nano", threads=2)  # short for RuntimeOptions(threads=2)
            >>> Segmenter.load("my.ovs", device="cuda", engine="tensorrt", precision="fp16")

        Args:
            model: the name of a packaged model, the path of a bundle, or OWNER/NAME[@REVISION] on the
                Hugging Face Hub, which is downloaded the first time.
            options: how the model runs; None uses the defaults.
            changes: fields of `RuntimeOptions` that replace those of ``options``.

        Raises:
            BundleError: there is no such model, its bundle is damaged, or it does not support the short side.
            EngineError: the engine is not installed, or does not reproduce the model.
            OptionError: an option has an invalid value, or one that has no effect because of another option.
            ClassesError: a template is invalid.
            TypeError: ``changes`` names a field that `RuntimeOptions` does not have.
        """
        options = replace(options or DEFAULT_OPTIONS, **changes)
        if options.templates is not None:
            options = replace(options, templates=check_templates(options.templates))
        bundle = load_bundle(find_bundle(model))
        if options.short_side is not None:
            if options.inference == "whole" and not takes_any_size(bundle.manifest):
                side = bundle.manifest.windows.size
                raise OptionError(
                    f"short_side={options.short_side} has no effect with inference 'whole': "
                    f"{bundle.path.name} takes a whole photo at {side}x{side} px only; leave one of them out"
                )
            bundle = at_short_side(bundle, options.short_side)
        pipeline = open_pipeline(bundle, options)
        cache = TextCache(cache_dir() / "text.sqlite3")
        text = TextEncoder(bundle, cache, engine=pipeline.open_text, trace=options.trace)
        return cls(bundle, pipeline.vision, text=text, templates=options.templates, pipeline=pipeline)

    @overload
    def __call__(
        self,
        image: "list[ImageInput]",
        classes: Classes,
        *,
        background: Background = None,
        background_classes: Classes | None = None,
        scores: bool = True,
        channels: Channels = "rgb",
        photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
    ) -> list[Segmentation]: ...

    @overload
    def __call__(
        self,
        image: ImageInput,
        classes: Classes,
        *,
        background: Background = None,
        background_classes: Classes | None = None,
        scores: bool = True,
        channels: Channels = "rgb",
        photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
    ) -> Segmentation: ...

    def __call__(
        self,
        image: "ImageInput | list[ImageInput]",
        classes: Classes,
        *,
        background: Background = None,
        background_classes: Classes | None = None,
        scores: bool = True,
        channels: Channels = "rgb",
        photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
    ) -> Segmentation | list[Segmentation]:
        """Segment a photo: assign one of the classes to each pixel. A list of photos gives a list of results.

        Example:
            >>> segmenter("street.jpg", "road, car, sky")  # every pixel gets one of three classes
            >>> segmenter("street.jpg", "car")  # one class: pixels below its threshold are background
            >>> segmenter("street.jpg", "car, person", background_classes="surroundings")
            >>> segmenter(frame, "ade150", channels="bgr")  # an OpenCV array

        Args:
            image: a path, URL, bytes, file, array, Pillow image or tensor; see `decode_input`.
            classes: "cat, car|automobile, sky", a list of names, a mapping of names to synonyms, the name of
                a packaged vocabulary, or a `Vocabulary`; see `read_classes`.
            background: confidence in 0..1 below which a pixel is background, label 0; "none" for no
                background. None uses a threshold if the vocabulary has one, or if there is only one class.
            background_classes: classes whose pixels count as background, such as "surroundings". Choose them
                to find objects without their surroundings; this is more reliable than a threshold.
            scores: also return the confidence of each pixel. Choose False to save a little time on a GPU.
            channels: the colour order of an array. Choose "bgr" for arrays from OpenCV.
            photo_options: bands and bits that a file does not declare; see `PhotoOptions`.

        Raises:
            PhotoError: the photo cannot be read.
            ClassesError: the classes do not form a valid vocabulary, or the threshold is not in 0..1.
            OptionError: ``photo_options`` are given with an array, image or tensor.
        """
        choice = self.choose(classes, background=background, background_classes=background_classes)
        decode = partial(_decode, channels=channels, options=photo_options)
        if isinstance(image, list | tuple):
            return [self._label(decode(each), choice, scores=scores) for each in image]
        return self._label(decode(image), choice, scores=scores)

    def encode(
        self,
        image: ImageInput,
        *,
        channels: Channels = "rgb",
        photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
    ) -> ImageFeatures:
        """Run everything that does not depend on the classes, for use with `segment`.

        Choose it to segment one photo with several class lists: encoding is by far the longer part.

        Example:
            >>> features = segmenter.encode("street.jpg")
            >>> vehicles = segmenter.segment(features, "car, bus, bicycle")
            >>> ground = segmenter.segment(features, "road, pavement, grass")

        Args:
            image: see `decode_input`.
            channels: the colour order of an array. Choose "bgr" for arrays from OpenCV.
            photo_options: see `__call__`.

        Raises:
            PhotoError: the photo cannot be read.
            OptionError: ``photo_options`` are given with an array, image or tensor.
        """
        decoded, milliseconds = _decode(image, channels, photo_options)
        self._check_usable()
        image_features = self.pipeline.encode(decoded.photo)
        timings = {"decode": milliseconds, **image_features.timings}
        return replace(image_features, timings=timings, notes=decoded.notes, valid=decoded.valid)

    def segment(
        self,
        image_features: ImageFeatures,
        classes: Classes,
        *,
        background: Background = None,
        background_classes: Classes | None = None,
        scores: bool = True,
    ) -> Segmentation:
        """Segment an encoded photo; the result equals that of a call with the photo.

        Args:
            image_features: result of `encode` with this model, on any device.
            classes, background, background_classes, scores: see `__call__`.

        Returns:
            The segmentation; its timings are those of this step only.

        Raises:
            PhotoError: another model encoded the photo.
            ClassesError: the classes do not form a valid vocabulary, or the threshold is not in 0..1.
        """
        choice = self.choose(classes, background=background, background_classes=background_classes)
        text = self._begin_text(choice.vocabulary)  # (N, D), when it is there
        pixels = self.pipeline.segment(image_features, text, threshold=choice.threshold, scores=scores)
        decoded = DecodedPhoto(image_features.photo, image_features.notes, image_features.valid)
        return self._segmentation(decoded, pixels, choice)

    def choose(
        self, classes: Classes, *, background: Background = None, background_classes: Classes | None = None
    ) -> "Choice":
        """Parse classes and choose their background threshold; see `__call__` for the arguments.

        Raises:
            ClassesError: the classes do not form a valid vocabulary, or the threshold is not in 0..1.
        """
        vocabulary = choose_classes(classes, background=background, background_classes=background_classes)
        head = self.bundle.manifest.head
        if background == "none":
            return Choice(vocabulary, None)
        if background is not None:
            return Choice(vocabulary, float(background))
        if vocabulary.background_classes:
            return Choice(vocabulary, 0.0)
        if vocabulary.background:
            return Choice(vocabulary, head.background)
        if len(vocabulary.classes) == 1:
            return Choice(replace(vocabulary, background=True), single_class_threshold(head), single=True)
        return Choice(vocabulary, None)

    @property
    def vision(self) -> Engine:
        """The engine that runs the vision graph."""
        return self.pipeline.vision

    def __enter__(self) -> "Segmenter":
        """Return the segmenter itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Wait for photos in flight, then release threads and device memory.

        Also happens on garbage collection.
        """
        with self._lock:
            self._closed = True
        self._beside.shutdown()
        self.pipeline.close()

    def encode_text(self, vocabulary: Vocabulary, *, wanted: Callable[[], bool] | None = None) -> Floats:
        """Embed the entries of a vocabulary with this segmenter's templates.

        Args:
            vocabulary: the classes.
            wanted: returns whether a caller still waits; see `TextEncoder.encode_classes`.

        Shape: (N, D), unit length.

        Raises:
            AbandonedError: no caller waits any more.
        """
        return self._begin_text(vocabulary, wanted).result()

    def has_text(self, vocabulary: Vocabulary) -> bool:
        """Tell whether a vocabulary's embeddings are in memory, so that `encode_text` does not wait."""
        with self._lock:
            text = self._texts.get(vocabulary.entries)
        return text is not None and text.done() and not text.exception()

    def _check_usable(self) -> None:
        """Reject the use of a closed segmenter, and of one on a GPU in a forked process.

        A forked process lacks the parent's threads. On the CPU they are started again.

        Raises:
            EngineError: the segmenter cannot be used here; the message gives the reason.
        """
        if os.getpid() != self._pid and isinstance(self.pipeline.vision, OnnxRuntimeEngine):
            self._pid, self._lock = os.getpid(), threading.Lock()
            self._beside, self._texts = ThreadPoolExecutor(1, "text"), {}
        if os.getpid() != self._pid:
            raise EngineError(
                "this process was forked after the model was loaded and lacks its threads and its GPU; "
                "load the model in the new process, or start it with multiprocessing's 'spawn'"
            )
        if self._closed:
            raise EngineError("the model is closed; load it again")

    def _begin_text(self, vocabulary: Vocabulary, wanted: Callable[[], bool] | None = None) -> Future[Floats]:
        self._check_usable()
        with self._lock:
            text = self._texts.pop(vocabulary.entries, None)
            if text is None or (text.done() and text.exception()):
                if self._closed:
                    raise EngineError("the model is closed; load it again")
                more = {} if wanted is None else {"wanted": wanted}
                text = self._beside.submit(self._text.encode_classes, vocabulary, self.templates, **more)
            self._texts[vocabulary.entries] = text
            if len(self._texts) > KEPT:
                del self._texts[next(iter(self._texts))]
        return text

    def _label(self, timed: tuple[DecodedPhoto, float], choice: "Choice", *, scores: bool) -> Segmentation:
        decoded, milliseconds = timed
        text = self._begin_text(choice.vocabulary)  # (N, D), when it is there
        pixels = self.pipeline.label(decoded.photo, text, threshold=choice.threshold, scores=scores)
        pixels = replace(pixels, timings={"decode": milliseconds, **pixels.timings})
        return self._segmentation(decoded, pixels, choice)

    def _segmentation(self, decoded: DecodedPhoto, pixels: Pixels, choice: "Choice") -> Segmentation:
        labels, vocabulary = pixels.labels, choice.vocabulary
        if vocabulary.background_classes:
            labels = np.where(labels < len(vocabulary.names), labels, 0).astype(labels.dtype)
        segmentation = Segmentation(
            photo=decoded.photo,
            labels=labels,
            scores=pixels.scores,
            classes=vocabulary.names,
            background=choice.threshold,
            background_classes=tuple(words[0] for words in vocabulary.background_classes),
            model=self.bundle.manifest.name,
            model_digest=self.bundle.digest,
            doubt=self.bundle.manifest.head.background,
            single=choice.single,
            engine=self.pipeline.vision.description,
            timings=pixels.timings,
            notes=decoded.notes,
        )
        return segmentation if decoded.valid is None else without_no_data(segmentation, decoded.valid)


@dataclass(frozen=True)
class Choice:
    """Parsed classes with their background and its threshold."""

    vocabulary: Vocabulary
    threshold: float | None  # None: every pixel gets a class
    single: bool = False  # one class alone, which has a background by default


def single_class_threshold(head: Head) -> float:
    """Return the background threshold for a single class, which would otherwise win every pixel.

    It is 0.2, or the model's own threshold if its confidence never falls that low.
    """
    lowest = 1 / (1 + math.exp(head.scale - head.bias))  # of a cosine of -1
    return SINGLE_CLASS_THRESHOLD if lowest < SINGLE_CLASS_THRESHOLD else head.background


def _decode(image: ImageInput, channels: Channels, options: PhotoOptions) -> tuple[DecodedPhoto, float]:
    """Return the photo and the time to decode it [ms]."""
    start = time.perf_counter()
    decoded = decode_input(image, channels=channels, options=options)
    decoded.warn(str(image) if isinstance(image, str | Path) else "")
    return decoded, round((time.perf_counter() - start) * 1000, 2)
