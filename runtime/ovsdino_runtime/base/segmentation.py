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
    doubt: float = 0.0  # the model's own threshold: below it, a class may not be there
    single: bool = False  # one class was asked for, and the background is there by default

    def regions(self, *, absent: bool = False) -> list[Region]:
        """List the classes that occur, the largest first.

        Args:
            absent: list the other classes as well, in their order, with 0 pixels and no score; an empty
                background is left out.
        """
        count = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        scores = np.full(len(count), None)
        if self.scores is not None:
            total = np.bincount(self.labels.ravel(), self.scores.ravel(), minlength=len(count))
            scores = total / np.maximum(count, 1)
        order = np.argsort(-count, kind="stable")
        first = int(self.background is not None)
        share = count / count.sum()
        return [
            Region(i, self.classes[i], int(count[i]), float(share[i]), scores[i] if count[i] else None)
            for i in order.tolist()
            if count[i] or (absent and i >= first)
        ]

    def absent(self) -> list[str]:
        """Name the classes that were asked for and not found; the background is none of them."""
        return [region.name for region in self.regions(absent=True) if not region.pixels]

    def doubtful(self) -> Region | None:
        """Return the class with the least mean confidence, if that is below the model's own threshold.

        Without a background the best of the classes wins each pixel, however little it fits.
        """
        scored = [region for region in self.regions() if region.score is not None]
        if self.background is not None or not scored:
            return None
        least = min(scored, key=lambda region: region.score or 0)
        return least if (least.score or 0) < self.doubt else None

    def coverage(self) -> dict[str, float]:
        """Give the share of the photo, 0..1, of each class that occurs, the largest first."""
        return {region.name: region.coverage for region in self.regions()}

    def overlay(self) -> "Image":
        """Draw the regions over the photo, with a legend."""
        from ovsdino_runtime.base.overlay import draw_overlay

        return draw_overlay(self)
