"""The result of a segmentation: a photo with a class for each pixel."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.errors import ClassesError, OutputError
from ovsdino_runtime.base.objects import MIN_AREA, SegmentedObject, find_objects
from ovsdino_runtime.geometry.outlines import Polygon, outline
from ovsdino_runtime.geometry.types import Indices, Labels, Mask, Photo

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_SHOWN = 6  # classes in a line
MAX_ROWS = 50  # classes in a table


@dataclass(frozen=True)
class Region:
    """All pixels of one class."""

    label: int
    name: str
    pixels: int
    coverage: float  # share of the pixels that hold data, 0..1
    score: float | None  # mean confidence, 0..1; None where the scores are not known


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """A photo with a class for each pixel; a `Segmenter` returns it.

    Example:
        >>> segmentation = segmenter("street.jpg", "car, road, sky")
        >>> segmentation.coverage()
        {'road': 0.41, 'sky': 0.33, 'car': 0.26}
        >>> cars = segmentation.mask("car")  # (H, W) bool
        >>> segmentation.save("overlay.png")
    """

    photo: Photo  # (H, W, 3) RGB
    labels: Labels  # (H, W): indices into `classes`; no data: `no_data_label` of their number
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
    notes: tuple[str, ...] = ()  # what had to be decided to read the photo

    def regions(self, *, absent: bool = False) -> list[Region]:
        """List the classes that occur, the largest first.

        Args:
            absent: append the classes that do not occur, with 0 pixels and no score; an empty background
                is left out.
        """
        count, total = self._count()
        scores = np.full(len(count), None) if total is None else total / np.maximum(count, 1)
        order = np.argsort(-count, kind="stable")
        first = int(self.background is not None)
        share = count / max(int(count.sum()), 1)
        return [
            Region(
                label=i,
                name=self.classes[i],
                pixels=int(count[i]),
                coverage=float(share[i]),
                score=scores[i] if count[i] else None,
            )
            for i in order.tolist()
            if count[i] or (absent and i >= first)
        ]

    def _count(self) -> tuple[Indices, npt.NDArray[np.float64] | None]:
        """Count the pixels of each class and sum their scores. Shape: (classes,) each."""
        size, labels = len(self.classes), self.labels.ravel()
        begins = np.ones(len(labels), np.bool_)
        np.not_equal(labels[1:], labels[:-1], out=begins[1:])
        starts = np.flatnonzero(begins)  # of runs of one label
        of_run = labels[starts].astype(np.intp)
        known = of_run < size  # pixels without data have no class
        lengths = np.diff(starts, append=len(labels))
        count = np.bincount(of_run[known], lengths[known], minlength=size).astype(np.intp)
        if self.scores is None:
            return count, None
        sums = np.add.reduceat(self.scores.ravel(), starts, dtype=np.float64)
        total = np.bincount(of_run[known], sums[known], minlength=size)
        return count, total.astype(np.float64, copy=False)

    def absent(self) -> list[str]:
        """Return the names of the classes that do not occur, without the background."""
        return [region.name for region in self.regions(absent=True) if not region.pixels]

    def doubtful(self) -> Region | None:
        """Return the class with the lowest mean confidence, if that is below the model's own threshold.

        Without a background each pixel takes its best class, even if that fits badly.
        """
        scored = [region for region in self.regions() if region.score is not None]
        if self.background is not None or not scored:
            return None
        weakest = min(scored, key=lambda region: region.score or 0)
        return weakest if (weakest.score or 0) < self.doubt else None

    def coverage(self) -> dict[str, float]:
        """Return class -> share of the photo, 0..1, of each class that occurs, largest first."""
        return {region.name: region.coverage for region in self.regions()}

    def label_of(self, name: str) -> int:
        """Return the label of a class by its name.

        Raises:
            ClassesError: the result has no such class; the message lists its classes.
        """
        if name not in self.classes:
            shown = ", ".join(self.classes[:MAX_SHOWN]) + (", ..." if len(self.classes) > MAX_SHOWN else "")
            raise ClassesError(f"{name!r} is none of the classes of this result: {shown}")
        return self.classes.index(name)

    def mask(self, name: str) -> Mask:
        """Return the pixels of a class. Shape: (H, W).

        Raises:
            ClassesError: the result has no such class.
        """
        mask: Mask = self.labels == self.label_of(name)
        return mask

    def polygons(self, name: str) -> list[Polygon]:
        """Return the outlines of a class, each the outer ring, then its holes; corners are (x, y) [px].

        Raises:
            ClassesError: the result has no such class.
        """
        return outline(self.mask(name))

    def crop(self, name: str) -> Photo | None:
        """Return the part of the photo inside a class's bounding box; None if the class does not occur.

        Shape: (h, w, 3) RGB.

        Raises:
            ClassesError: the result has no such class.
        """
        mask = self.mask(name)
        if not mask.any():
            return None
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return self.photo[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    def objects(
        self, classes: Sequence[str] | None = None, *, min_area: float = MIN_AREA
    ) -> list[SegmentedObject]:
        """Find the objects of the classes: their connected components, largest first; see `find_objects`.

        Args:
            classes: names of classes; None takes all but the background.
            min_area: share of the photo, 0..1, below which components are left out.

        Raises:
            ClassesError: the result has no class of that name.
        """
        return find_objects(self, classes, min_area=min_area)

    def overlay(self) -> "Image":
        """Draw the regions over the photo, with a legend."""
        from ovsdino_runtime.base.overlay import draw_overlay

        return draw_overlay(self)

    def save(self, path: str | Path) -> None:
        """Write the overlay as an image in the format of the path's suffix.

        Raises:
            OutputError: the file cannot be written, or the suffix names no image format.
        """
        from PIL import Image

        path = Path(path)
        Image.init()
        form = Image.EXTENSION.get(path.suffix.lower())
        if form not in Image.SAVE:
            raise OutputError(f"{path}: {path.suffix or 'no suffix'} is no image format; choose .png or .jpg")
        image = self.overlay()
        write_whole(path, lambda file: image.save(file, form))

    def __repr__(self) -> str:
        """Summarise the classes in one line."""
        height, width = self.labels.shape
        shown = [f"{region.name} {region.coverage:.1%}" for region in self.regions()]
        rest = f", {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
        return f"<Segmentation {width}x{height} by {self.model}: {', '.join(shown[:MAX_SHOWN])}{rest}>"

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook."""
        self.overlay().save(file := BytesIO(), "PNG")
        return file.getvalue()

    def _repr_html_(self) -> str:
        """Show the overlay and a table of the classes in a notebook."""
        picture = base64.b64encode(self._repr_png_()).decode()
        rows = "".join(
            f"<tr><td>{escape(region.name)}</td><td>{region.coverage:.1%}</td>"
            f"<td>{'' if region.score is None else f'{region.score:.2f}'}</td></tr>"
            for region in self.regions(absent=True)[:MAX_ROWS]
        )
        head = "<tr><th>class</th><th>share</th><th>confidence</th></tr>"
        return (
            f'<img src="data:image/png;base64,{picture}" alt="{escape(repr(self))}" style="max-width:100%">'
            f"<table>{head}{rows}</table>"
        )


def no_data_label(classes: int) -> int:
    """Return the label of pixels without data; it belongs to no class."""
    return 255 if classes <= 255 else 65535


def without_no_data(segmentation: Segmentation, valid: npt.NDArray[np.bool_]) -> Segmentation:
    """Set pixels without data to `no_data_label`, and add a note with their number.

    Shape: valid (H, W), False for pixels without data.
    """
    nothing = no_data_label(len(segmentation.classes))
    labels = np.where(valid, segmentation.labels, nothing)
    note = f"{np.count_nonzero(~valid)} pixels hold no data: their label is {nothing}"
    scores = segmentation.scores
    return replace(
        segmentation,
        labels=labels.astype(segmentation.labels.dtype),
        scores=None if scores is None else np.where(valid, scores, 0).astype(scores.dtype),
        notes=(*segmentation.notes, note),
    )
