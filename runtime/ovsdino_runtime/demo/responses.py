"""Responses for the demo page: each photo is encoded once, then segmented with any number of class lists."""

import base64
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.base.overlay import palette
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.demo.snippet import python_program
from ovsdino_runtime.files.output import describe_segmentation, labels_image
from ovsdino_runtime.geometry.preprocess import resize_photo
from ovsdino_runtime.geometry.types import Photo
from ovsdino_runtime.pipelines.pipeline import ImageFeatures
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.serve.upload import UploadLimits, check_count, read_upload
from ovsdino_runtime.text.class_lists import read_classes

if TYPE_CHECKING:
    from PIL.Image import Image

LIMITS = UploadLimits(megabytes=20, megapixels=50, classes=300)
SIDE = 960  # [px] longest side of a photo on the page; larger photos are resized
DEFAULT_OPTIONS = RuntimeOptions()
KEPT = 8  # number of recent photos whose features are kept
SCORE_STEPS = 100  # steps of a confidence in 0..1


@dataclass(frozen=True)
class LegendEntry:
    """A line of the legend."""

    label: int
    name: str
    colour: tuple[int, int, int]  # RGB
    share: float  # of the photo, 0..1
    score: float  # mean confidence, 0..1


@dataclass(frozen=True)
class PageResponse:
    """Everything that the page draws for one request."""

    photo: str  # JPEG as a data URL
    labels: str  # see `pack_labels`
    files: dict[str, str]  # to download, as data URLs: "labels", the indexed PNG, and "json"
    python: str  # a program that does the same
    entries: tuple[LegendEntry, ...]  # the largest first
    background: bool  # label 0 is the background
    model: str
    engine: str
    image_features: float  # [ms] to encode the photo
    new: bool  # whether the photo was encoded for this request
    words: float  # [ms] to wait for the embeddings of the words
    naming: float  # [ms] from features and embeddings to labels
    drawing: float  # [ms] from labels to this response
    total: float  # [ms] from request to response


class Responder:
    """Answer requests of the page. The features of recent photos are kept for the next words.

    Args:
        segmenter: the model.
        limits: limits on photos and words.
        model: the model's name or path, as programs that the page shows load it.
        options: how it runs, for the same programs.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        limits: UploadLimits = LIMITS,
        *,
        model: str = "nano",
        options: RuntimeOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._segmenter = segmenter
        self._model, self._options = model, options
        self._limits = limits
        # features of a photo, and the photo as a data URL, by file and time of change
        self._recent: OrderedDict[object, tuple[ImageFeatures, str]] = OrderedDict()
        self._lock = threading.Lock()  # guards `_recent`

    def __call__(
        self, file: Path, words: Sequence[str], background: float, *, background_classes: str | None = None
    ) -> PageResponse:
        """Segment a photo.

        Args:
            file: the photo; encoded again only if the file has changed.
            words: one class each, with ``|`` between its synonyms.
            background: confidence in 0..1 below which a pixel is background. 0: the vocabulary's default,
                which is no background, or 0.2 for a single class.
            background_classes: classes that count as background: words, or the name of a packaged vocabulary.

        Raises:
            PhotoError: the photo cannot be read, or is too large.
            ClassesError: the words do not form a valid vocabulary, or there are too many.
        """
        start = time.perf_counter()
        vocabulary = check_count(read_classes(list(words)), self._limits)
        image_features, photo, new = self._encode(file)
        segmentation = self._segmenter.segment(
            image_features, vocabulary, background=background or None, background_classes=background_classes
        )
        drawing = time.perf_counter()
        labels, entries = pack_labels(segmentation), list_entries(segmentation)
        end = time.perf_counter()
        return PageResponse(
            photo=photo,
            labels=labels,
            files=pack_files(segmentation, photo=file.name),
            python=python_program(
                self._model,
                self._options,
                photo=file.name,
                words=words,
                background=background,
                background_classes=background_classes,
            ),
            entries=entries,
            background=segmentation.background is not None,
            model=segmentation.model,
            engine=segmentation.engine,
            image_features=sum(image_features.timings.values()),
            new=new,
            words=segmentation.timings["text"],
            naming=segmentation.timings["merge"],
            drawing=1000 * (end - drawing),
            total=1000 * (end - start),
        )

    def _encode(self, file: Path) -> tuple[ImageFeatures, str, bool]:
        """Return the features of a photo, the photo as a data URL, and whether it was encoded just now."""
        state = file.stat()
        key = file, state.st_size, state.st_mtime_ns
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return *self._recent[key], False
        photo = fit_photo(read_upload(file.read_bytes(), self._limits).photo)
        encoded = self._segmenter.encode(photo), show_photo(photo)
        with self._lock:
            self._recent[key] = encoded
            while len(self._recent) > KEPT:
                self._recent.popitem(last=False)
        return *encoded, True


def split_words(chips: Sequence[str]) -> list[str]:
    """Split typed or pasted words at commas and line ends; drop repeated words.

    Raises:
        ClassesError: a word is not a string.
    """
    if not all(isinstance(chip, str) for chip in chips):
        raise ClassesError("words are text, such as 'cat', 'grass', 'sky'")
    words: dict[str, str] = {}
    for word in (part for chip in chips for part in chip.replace("\n", ",").split(",")):
        if kept := " ".join(word.split()):
            words.setdefault(kept.casefold(), kept)
    return list(words.values())


def fit_photo(photo: Photo) -> Photo:
    """Shrink a photo to the page's size, keeping its proportions. Shape: (H, W, 3) -> (H', W', 3)."""
    height, width = photo.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return photo
    return resize_photo(photo, max(1, round(height * scale)), max(1, round(width * scale)), antialias=True)


def show_photo(photo: Photo) -> str:
    """Encode a photo as a data URL. Shape: (H, W, 3)."""
    from PIL import Image

    return _data_url(Image.fromarray(photo), "jpeg", quality=88)


def pack_labels(segmentation: Segmentation) -> str:
    """Encode labels and scores as an RGB PNG in a data URL.

    Red and green hold the low and high byte of the label, blue the score in hundredths.
    """
    from PIL import Image

    assert segmentation.scores is not None
    packed = np.empty((*segmentation.labels.shape, 3), np.uint8)  # (H, W, 3)
    packed[..., 0] = segmentation.labels & 255
    packed[..., 1] = segmentation.labels >> 8
    packed[..., 2] = np.rint(segmentation.scores.astype(np.float32) * SCORE_STEPS)
    return _data_url(Image.fromarray(packed), "png", compress_level=1)


def pack_files(segmentation: Segmentation, *, photo: str) -> dict[str, str]:
    """Write the files of `ovsdino-run --save labels,json` as data URLs."""
    about = json.dumps(describe_segmentation(segmentation, photo=photo), indent=2, ensure_ascii=False) + "\n"
    text = base64.b64encode(about.encode()).decode()
    return {
        "labels": _data_url(labels_image(segmentation), "png", compress_level=1),
        "json": f"data:application/json;base64,{text}",
    }


def list_entries(segmentation: Segmentation) -> tuple[LegendEntry, ...]:
    """List the classes that occur, largest first, with colour, share and score."""
    colours = palette(len(segmentation.classes), background=segmentation.background is not None)
    entries = []
    for region in segmentation.regions():
        red, green, blue = colours[region.label].tolist()
        score = float(region.score or 0)
        entries.append(
            LegendEntry(
                label=region.label,
                name=region.name,
                colour=(red, green, blue),
                share=region.coverage,
                score=score,
            )
        )
    return tuple(entries)


def _data_url(image: "Image", kind: str, **options: int) -> str:
    file = BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
