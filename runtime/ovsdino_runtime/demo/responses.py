"""What the page asks of the model: each photo is seen once, then named with any number of word lists."""

import base64
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
from ovsdino_runtime.base.overlay import palette
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.geometry.preprocess import resize_photo
from ovsdino_runtime.geometry.types import Photo
from ovsdino_runtime.pipelines.pipeline import ImageFeatures
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.serve.upload import UploadLimits, check_count, read_upload
from ovsdino_runtime.text.class_lists import read_classes

if TYPE_CHECKING:
    from PIL.Image import Image

LIMITS = UploadLimits(megabytes=20, megapixels=50, classes=300)
SIDE = 960  # [px] a larger photo is made smaller: no screen shows more beside the words
KEPT = 8  # photos whose features are kept, the last ones
SCORE_STEPS = 100  # of a confidence in 0..1


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    label: int
    name: str
    colour: tuple[int, int, int]  # RGB
    share: float  # of the photo, 0..1
    score: float  # mean confidence, 0..1


@dataclass(frozen=True)
class Answer:
    """What the page draws."""

    photo: str  # JPEG as a data URL
    labels: str  # see `pack_labels`
    entries: tuple[Entry, ...]  # the largest first
    background: bool  # label 0 is the background
    model: str
    engine: str
    image_features: float  # [ms] to see the photo, when that was done
    new: bool  # it was done for this answer
    words: float  # [ms] to wait for the words' embeddings
    naming: float  # [ms] from features and words to labels
    drawing: float  # [ms] from labels to what the page draws
    total: float  # [ms] from the question to the answer


class Answers:
    """Answers the page's questions, one photo's features at hand for the next words.

    Args:
        segmenter: the model.
        limits: of photos and words.
    """

    def __init__(self, segmenter: Segmenter, limits: UploadLimits = LIMITS) -> None:
        self._segmenter = segmenter
        self._limits = limits
        self._seen: OrderedDict[object, tuple[ImageFeatures, str]] = (
            OrderedDict()
        )  # and the photo as it is shown
        self._lock = threading.Lock()  # of the photos that are kept

    def __call__(
        self, file: Path, words: Sequence[str], background: float, background_classes: str | None = None
    ) -> Answer:
        """Name the pixels of a photo.

        Args:
            file: the photo; one that has not changed is not looked at again.
            words: one class each, with ``|`` between words for the same.
            background: confidence in 0..1 below which a pixel is background; 0: every pixel has a
                class, and one class alone its default of 0.2.
            others: what is background as well: words, or the name of a packaged vocabulary.

        Raises:
            PhotoError: the photo cannot be read, or is too large.
            ClassesError: the words make no valid vocabulary, or are too many.
        """
        start = time.perf_counter()
        vocabulary = check_count(read_classes(list(words)), self._limits)
        image_features, photo, new = self._see(file)
        segmentation = self._segmenter.segment(
            image_features, vocabulary, background=background or None, background_classes=background_classes
        )
        drawing = time.perf_counter()
        labels, entries = pack_labels(segmentation), list_entries(segmentation)
        end = time.perf_counter()
        return Answer(
            photo,
            labels,
            entries,
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

    def _see(self, file: Path) -> tuple[ImageFeatures, str, bool]:
        """Give a photo's features, the photo as a data URL, and whether it had to be looked at."""
        state = file.stat()
        key = file, state.st_size, state.st_mtime_ns
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
                return *self._seen[key], False
        photo = fit_photo(read_upload(file.read_bytes(), self._limits))
        found = self._segmenter.encode(photo), show_photo(photo)
        with self._lock:
            self._seen[key] = found
            while len(self._seen) > KEPT:
                self._seen.popitem(last=False)
        return *found, True


def split_words(chips: Sequence[str]) -> list[str]:
    """Part what was typed or pasted with commas or line ends; each word once.

    Raises:
        ClassesError: it is no text.
    """
    if not all(isinstance(chip, str) for chip in chips):
        raise ClassesError("words are text, such as 'cat', 'grass', 'sky'")
    words: dict[str, str] = {}
    for word in (part for chip in chips for part in chip.replace("\n", ",").split(",")):
        if kept := " ".join(word.split()):
            words.setdefault(kept.casefold(), kept)
    return list(words.values())


def fit_photo(photo: Photo) -> Photo:
    """Bring a large photo to the page's size, with its proportions. Shape: (H, W, 3) -> (H', W', 3)."""
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
    """Encode labels and scores as the colours of a PNG's pixels, as a data URL.

    Red and green are the low and high byte of the label, blue is the score in hundredths.
    """
    from PIL import Image

    assert segmentation.scores is not None
    packed = np.empty((*segmentation.labels.shape, 3), np.uint8)  # (H, W, 3)
    packed[..., 0] = segmentation.labels & 255
    packed[..., 1] = segmentation.labels >> 8
    packed[..., 2] = np.rint(segmentation.scores.astype(np.float32) * SCORE_STEPS)
    return _data_url(Image.fromarray(packed), "png", compress_level=1)


def list_entries(segmentation: Segmentation) -> tuple[Entry, ...]:
    """Give the legend: what occurs, the largest first."""
    colours = palette(len(segmentation.classes), background=segmentation.background is not None)
    entries = []
    for region in segmentation.regions():
        red, green, blue = colours[region.label].tolist()
        score = float(region.score or 0)
        entries.append(Entry(region.label, region.name, (red, green, blue), region.coverage, score))
    return tuple(entries)


def _data_url(image: "Image", kind: str, **options: int) -> str:
    file = BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
