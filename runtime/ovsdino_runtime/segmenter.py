"""The way from a photo and some words to one class a pixel.

photo - resize - windows ----> vision engine --> features (B, D, h, w)
words - cache or text engine ----------------->  text (N, D)            head and merge --> labels (H, W)
"""

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.bundle import MANIFEST, Bundle, Precision, load_bundle
from ovsdino_runtime.cache import cache_dir
from ovsdino_runtime.engines import Engine, open_vision
from ovsdino_runtime.errors import BundleError, ClassesError
from ovsdino_runtime.merge import Labels, merge_argmax, merge_geometry
from ovsdino_runtime.photo import to_photo
from ovsdino_runtime.preprocess import Floats, Photo, cut_windows, fit_size, normalise, resize_photo
from ovsdino_runtime.segmentation import Segmentation
from ovsdino_runtime.text import TextEncoder
from ovsdino_runtime.text_cache import TextCache
from ovsdino_runtime.vocabulary import Vocabulary, parse_classes
from ovsdino_runtime.windows import Window, plan_windows

if TYPE_CHECKING:
    from PIL.Image import Image

WINDOWS_AT_ONCE = 2  # more are no faster on a CPU, and each takes memory


class Segmenter:
    """Names every pixel of photos. Make one with `Segmenter.load`, then call it.

    Args:
        bundle: the model.
        vision: the engine that runs its vision graph.
        text: encodes classes.
        templates: prompts around each word; None takes the bundle's own.
        antialias: how photos are made smaller; see `resize_photo`.
    """

    def __init__(
        self,
        bundle: Bundle,
        vision: Engine,
        text: TextEncoder,
        *,
        templates: Sequence[str] | None = None,
        antialias: bool = True,
    ) -> None:
        self.bundle = bundle
        self.templates = tuple(templates or bundle.manifest.templates)
        self.antialias = antialias
        self.vision = vision
        self._text = text
        self._last: tuple[tuple[tuple[str, ...], ...], Floats] | None = (
            None  # photos often share their classes
        )

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = "fp32",
        templates: Sequence[str] | None = None,
        antialias: bool = True,
    ) -> "Segmenter":
        """Open a model.

        Args:
            model: the name of a packaged model, or the path of a bundle.
            device: "cpu".
            threads: how many threads compute; None takes all processors.
            precision: "fp32" or "fp16": which of the bundle's vision graphs runs.
            templates: prompts such as "a photo of a {}."; None takes the bundle's own.
            antialias: average when a large photo is made smaller; False is the benchmarks' way.

        Raises:
            BundleError: no such model, or its bundle is damaged.
            EngineError: the engine is not installed, or does not reproduce the model.
        """
        bundle = load_bundle(find_bundle(model))
        vision = open_vision(bundle, device=device, threads=threads, precision=precision)
        text = TextEncoder(bundle, TextCache(cache_dir() / "text.sqlite3"), device=device, threads=threads)
        return cls(bundle, vision, text, templates=templates, antialias=antialias)

    def __call__(
        self,
        image: "str | Path | npt.NDArray[np.uint8] | Image",
        classes: str | Sequence[str] | Vocabulary,
        *,
        background: float | None = None,
    ) -> Segmentation:
        """Give each pixel of a photo one of the classes.

        Args:
            image: a path, an RGB array (H, W, 3) or a Pillow image.
            classes: such as "cat, car|automobile, sky" or ["cat", "car|automobile", "sky"], or a vocabulary.
            background: confidence in 0..1 below which a pixel is background, label 0; None: only where the
                vocabulary has a background, at the model's own threshold.

        Raises:
            PhotoError: the photo cannot be read.
            ClassesError: the classes make no valid vocabulary, or the threshold is not in 0..1.
        """
        clock = _Clock()
        vocabulary = as_vocabulary(classes, background=background is not None)
        threshold = self._threshold(vocabulary, background)
        photo = to_photo(image)  # (H, W, 3)
        clock.lap("decode")
        text = self.encode_text(vocabulary)  # (N, D)
        clock.lap("text")
        resized = self.resize(photo)  # (H', W', 3)
        windows = self.plan(resized)
        features = self.encode_windows(resized, windows)  # (B, D, h, w)
        clock.lap("vision")
        h, w = features.shape[2:]
        geometry = merge_geometry(windows, (h, w), resized=resized.shape[:2], photo=photo.shape[:2])
        labels, cosine = merge_argmax(features, text, geometry)  # (H, W) each
        labels, scores = self._decide(labels, cosine, threshold)
        clock.lap("merge")
        return Segmentation(
            photo=photo,
            labels=labels,
            scores=scores,
            classes=vocabulary.names,
            background=threshold,
            model=self.bundle.manifest.name,
            engine=self.vision.description,
            timings=clock.laps,
        )

    def resize(self, photo: Photo) -> Photo:
        """Bring a photo to the size at which the model works. Shape: (H, W, 3) -> (H', W', 3)."""
        limits = self.bundle.manifest.preprocessing
        height, width = fit_size(*photo.shape[:2], short_side=limits.short_side, long_side=limits.long_side)
        return resize_photo(photo, height, width, antialias=self.antialias)

    def plan(self, resized: Photo) -> list[Window]:
        """Plan the windows of a resized photo."""
        policy = self.bundle.manifest.windows
        return plan_windows(*resized.shape[:2], size=policy.size, stride=policy.stride)

    def encode_windows(self, resized: Photo, windows: Sequence[Window]) -> Floats:
        """Run the vision engine on windows, some at a time. Shape: (H', W', 3) -> (B, D, h, w)."""
        manifest = self.bundle.manifest
        pixels = normalise(resized, manifest.preprocessing)
        features = [
            self.vision.run(
                {"pixels": cut_windows(pixels, windows[i : i + WINDOWS_AT_ONCE], manifest.windows.size)}
            )
            for i in range(0, len(windows), WINDOWS_AT_ONCE)
        ]
        return np.concatenate([some["features"] for some in features])

    def encode_text(self, vocabulary: Vocabulary) -> Floats:
        """Encode classes with this segmenter's templates. Shape: (N, D), unit length."""
        if self._last is None or self._last[0] != vocabulary.classes:
            self._last = vocabulary.classes, self._text.encode_classes(vocabulary, self.templates)
        return self._last[1]

    def _threshold(self, vocabulary: Vocabulary, asked: float | None) -> float | None:
        if asked is not None and not 0 <= asked <= 1:
            raise ClassesError(f"the background's threshold must be in 0..1, got {asked}")
        if asked is None and vocabulary.background:
            return self.bundle.manifest.head.background
        return asked

    def _decide(
        self, labels: Labels, cosine: Floats, threshold: float | None
    ) -> tuple[Labels, npt.NDArray[np.float16]]:
        """Turn cosines into confidence, and unsure pixels into background, which is label 0."""
        head = self.bundle.manifest.head
        confidence = 1 / (1 + np.exp(-(head.scale * cosine + head.bias)))  # (H, W) in (0, 1)
        if threshold is not None:
            unsure = confidence < threshold
            labels = np.where(unsure, 0, labels + 1).astype(np.uint16)
            confidence = np.where(unsure, 1 - confidence, confidence)
        return labels, confidence.astype(np.float16)


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


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = round((now - self._last) * 1000, 2)
        self._last = now
