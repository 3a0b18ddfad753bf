"""What the segmenter gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Labels, Photo

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Region:
    """All pixels of one class."""

    label: int
    name: str
    pixels: int
    coverage: float  # share of the photo, 0..1
    score: float | None  # mean confidence, 0..1; None where the scores are not known


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A photo with a class for each of its pixels."""

    photo: Photo  # (H, W, 3) RGB
    labels: Labels  # (H, W): indices into `classes`
    scores: npt.NDArray[np.float16] | None  # (H, W): confidence in the label, 0..1; None if not asked for
    classes: tuple[str, ...]  # "background" first where there is one
    background: float | None  # the threshold below which a pixel is background; None: every pixel has a class
    model: str
    engine: str
    timings: Mapping[str, float]  # [ms] by stage, in their order
    background_classes: tuple[str, ...] = ()  # names of classes that count as background
    model_digest: str = ""  # of the bundle's graphs and weights: which weights made this
    doubt: float = 0.0  # confidence below which the model would rather say background

    def regions(self) -> list[Region]:
        """List the classes that occur, the largest first."""
        count = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        scores = np.full(len(count), None)
        if self.scores is not None:
            total = np.bincount(self.labels.ravel(), self.scores.ravel(), minlength=len(count))
            scores = total / np.maximum(count, 1)
        order = np.argsort(-count, kind="stable")
        share = count / count.sum()
        return [
            Region(i, self.classes[i], int(count[i]), float(share[i]), scores[i])
            for i in order.tolist()
            if count[i]
        ]

    def coverage(self) -> dict[str, float]:
        """Give the share of the photo, 0..1, of each class that occurs, the largest first."""
        return {region.name: region.coverage for region in self.regions()}

    def overlay(self) -> "Image":
        """Draw the regions over the photo, with a legend."""
        from ovsdino_runtime.base.overlay import draw_overlay

        return draw_overlay(self)
