"""Name every pixel of photos: a model, its pipeline on some device, and the text beside it."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ovsdino_runtime.bundle import MANIFEST, Bundle, Precision, load_bundle
from ovsdino_runtime.cache import cache_dir
from ovsdino_runtime.engines import Engine
from ovsdino_runtime.errors import BundleError, ClassesError
from ovsdino_runtime.photo import to_photo
from ovsdino_runtime.pipeline import (
    EncodeWindows,
    HostPipeline,
    Pipeline,
    PipelineOptions,
    Windows,
    open_pipeline,
)
from ovsdino_runtime.preprocess import Floats, Photo
from ovsdino_runtime.segmentation import Segmentation
from ovsdino_runtime.text import TextEncoder
from ovsdino_runtime.text_cache import TextCache
from ovsdino_runtime.trace import NO_TRACE, Trace
from ovsdino_runtime.vocabulary import Vocabulary, parse_classes
from ovsdino_runtime.windows import Window

if TYPE_CHECKING:
    from PIL.Image import Image


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
        text: TextEncoder,
        *,
        templates: Sequence[str] | None = None,
        antialias: bool = True,
        pipeline: Pipeline | None = None,
    ) -> None:
        self.bundle = bundle
        self.templates = tuple(templates or bundle.manifest.templates)
        self.pipeline = pipeline or HostPipeline(bundle, vision, PipelineOptions(antialias=antialias))
        self._text = text
        self._beside = ThreadPoolExecutor(1, "text")  # encodes text while windows are in flight
        self._last: tuple[tuple[tuple[str, ...], ...], Future[Floats]] | None = (
            None  # photos often share their classes
        )

    @classmethod
    def load(  # noqa: PLR0913 - one argument for each choice that a user has
        cls,
        model: str | Path = "nano",
        *,
        device: str = "cpu",
        engine: str = "onnxruntime",
        threads: int | None = None,
        precision: Precision = "fp32",
        templates: Sequence[str] | None = None,
        antialias: bool = True,
        windows: Windows = "model",
        trace: Trace = NO_TRACE,
    ) -> "Segmenter":
        """Open a model.

        Args:
            model: the name of a packaged model, or the path of a bundle.
            device: "cpu" or "cuda".
            engine: "onnxruntime", on cuda also "tensorrt" or "tensorrt-rtx".
            threads: how many threads compute; None takes all processors.
            precision: which of the bundle's vision graphs runs.
            templates: prompts such as "a photo of a {}."; None takes the bundle's own.
            antialias: average when a large photo is made smaller; False is the benchmarks' way.
            windows: "model" cuts photos as the model asks; "none" takes each as a whole: faster, less exact.
            trace: takes down every stage.

        Raises:
            BundleError: no such model, or its bundle is damaged.
            EngineError: the engine is not installed, or does not reproduce the model.
        """
        bundle = load_bundle(find_bundle(model))
        options = PipelineOptions(device, engine, precision, threads, antialias, windows, trace)
        pipeline = open_pipeline(bundle, options)
        cache = TextCache(cache_dir() / "text.sqlite3")
        text = TextEncoder(bundle, cache, engine=pipeline.open_text, trace=trace)
        return cls(bundle, pipeline.vision, text, templates=templates, pipeline=pipeline)

    def __call__(
        self,
        image: "str | Path | Photo | Image",
        classes: str | Sequence[str] | Vocabulary,
        *,
        background: float | None = None,
        scores: bool = True,
    ) -> Segmentation:
        """Give each pixel of a photo one of the classes.

        Args:
            image: a path, an RGB array (H, W, 3) or a Pillow image.
            classes: such as "cat, car|automobile, sky" or ["cat", "car|automobile", "sky"], or a vocabulary.
            background: confidence in 0..1 below which a pixel is background, label 0; None: only where the
                vocabulary has a background, at the model's own threshold.
            scores: give each pixel's confidence as well; a GPU is a little faster without.

        Raises:
            PhotoError: the photo cannot be read.
            ClassesError: the classes make no valid vocabulary, or the threshold is not in 0..1.
        """
        vocabulary = as_vocabulary(classes, background=background is not None)
        threshold = self._threshold(vocabulary, background)
        start = time.perf_counter()
        photo = to_photo(image)  # (H, W, 3)
        decode = round((time.perf_counter() - start) * 1000, 2)
        text = self._begin_text(vocabulary)  # (N, D), when it is there
        pixels = self.pipeline.label(photo, text, threshold=threshold, scores=scores)
        return Segmentation(
            photo=photo,
            labels=pixels.labels,
            scores=pixels.scores,
            classes=vocabulary.names,
            background=threshold,
            model=self.bundle.manifest.name,
            engine=self.pipeline.vision.description,
            timings={"decode": decode, **pixels.timings},
        )

    @property
    def vision(self) -> Engine:
        """The engine that runs the vision graph."""
        return self.pipeline.vision

    def close(self) -> None:
        """Give back threads and what the device holds; a segmenter that is dropped does so by itself."""
        self._beside.shutdown()
        self.pipeline.close()

    def resize(self, photo: Photo) -> Photo:
        """Bring a photo to the size at which the model works. Shape: (H, W, 3) -> (H', W', 3)."""
        return self.pipeline.prepare.resize(photo)

    def plan(self, resized: Photo) -> list[Window]:
        """Plan the windows of a resized photo."""
        return self.pipeline.prepare.plan(resized)

    def encode_windows(self, resized: Photo, windows: Sequence[Window]) -> Floats:
        """Run the vision engine on windows, some at a time. Shape: (H', W', 3) -> (B, D, h, w)."""
        prepare, vision = self.pipeline.prepare, self.pipeline.vision
        return EncodeWindows(self.bundle.manifest, vision, prepare.windows)(resized, windows)

    def encode_text(self, vocabulary: Vocabulary) -> Floats:
        """Encode classes with this segmenter's templates. Shape: (N, D), unit length."""
        return self._begin_text(vocabulary).result()

    def _begin_text(self, vocabulary: Vocabulary) -> Future[Floats]:
        last = self._last
        if last is None or last[0] != vocabulary.classes or (last[1].done() and last[1].exception()):
            text = self._beside.submit(self._text.encode_classes, vocabulary, self.templates)
            last = self._last = vocabulary.classes, text
        return last[1]

    def _threshold(self, vocabulary: Vocabulary, asked: float | None) -> float | None:
        if asked is not None and not 0 <= asked <= 1:
            raise ClassesError(f"the background's threshold must be in 0..1, got {asked}")
        if asked is None and vocabulary.background:
            return self.bundle.manifest.head.background
        return asked


def as_vocabulary(classes: str | Sequence[str] | Vocabulary, *, background: bool) -> Vocabulary:
    """Accept classes in the forms in which callers have them.

    Args:
        classes: as they are typed, one text for each, or a vocabulary.
        background: whether label 0 is to be the background, whatever the vocabulary says.

    Raises:
        ClassesError: they make no valid vocabulary.
    """
    if not isinstance(classes, Vocabulary):
        classes = parse_classes(classes)
    if background and not classes.background:
        return Vocabulary(classes.classes, background=True, name=classes.name, source=classes.source)
    return classes


def packaged_models() -> dict[str, Path]:
    """Find the models that come with the package, by name."""
    folder = Path(str(resources.files("ovsdino_runtime") / "models"))
    return {path.stem: path for path in sorted(folder.glob("*.ovs"))}


def find_bundle(model: str | Path) -> Path:
    """Find a bundle by the name of a packaged model or by its path.

    Raises:
        BundleError: there is none; the message lists the names.
    """
    known = packaged_models()
    if isinstance(model, str) and model in known:
        return known[model]
    if (Path(model) / MANIFEST).is_file():
        return Path(model)
    kind = (
        "a directory without bundle.json" if Path(model).is_dir() else "neither a packaged model nor a bundle"
    )
    raise BundleError(
        f"{model}: {kind}; packaged models: {', '.join(known) or 'none'}; "
        "`ovsdino-export --model NAME --out DIR` writes a bundle, whose path can be given here"
    )
