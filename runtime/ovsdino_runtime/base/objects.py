"""Find objects: the connected components of a class, as instances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import OptionError
from ovsdino_runtime.geometry.components import connected_components
from ovsdino_runtime.geometry.outlines import Polygon, outline
from ovsdino_runtime.geometry.types import Mask

if TYPE_CHECKING:
    from ovsdino_runtime.base.segmentation import Segmentation

MIN_AREA = 0.0005  # of the photo: 154 px of 640x480


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """A connected component of a class."""

    label: int
    name: str
    area: int  # [px]
    box: tuple[int, int, int, int]  # left, top, width, height [px]
    centroid: tuple[float, float]  # x, y of the mean pixel [px], pixel centres at .5
    score: float | None  # mean confidence, 0..1; None where the scores are not known
    crop: Mask  # (height, width) of the box: its pixels
    size: tuple[int, int]  # height and width of the photo [px]

    def mask(self) -> Mask:
        """Return the object's pixels in the photo. Shape: (H, W)."""
        left, top, width, height = self.box
        mask = np.zeros(self.size, np.bool_)
        mask[top : top + height, left : left + width] = self.crop
        return mask

    def polygon(self) -> Polygon:
        """Return the outline along pixel edges: the outer ring, then the holes; corners are (x, y) [px].

        Pixels of an object touch along an edge, so that it has one outer ring.
        """
        left, top = self.box[:2]
        (polygon,) = outline(self.crop)
        return [[(x + left, y + top) for x, y in ring] for ring in polygon]


def find_objects(
    segmentation: "Segmentation", classes: Sequence[str] | None = None, *, min_area: float = MIN_AREA
) -> list[SegmentedObject]:
    """Find the connected components of the classes, largest first; background and no data have none.

    Objects of one class that touch are one component.

    Example:
        >>> for car in find_objects(segmentation, ["car"]):
        ...     print(car.box, car.score)

    Args:
        segmentation: the result of a `Segmenter`.
        classes: names of classes; None takes all.
        min_area: share of the photo, 0..1, below which components are left out.

    Raises:
        ClassesError: the result has no class of that name.
        OptionError: ``min_area`` is not in 0..1.
    """
    if isinstance(min_area, bool) or not 0 <= min_area <= 1:
        raise OptionError(f"min_area is a share of the photo in 0..1, got {min_area!r}")
    wanted = {segmentation.label_of(name) for name in classes} if classes is not None else None
    components = connected_components(segmentation.labels)
    flat = components.ravel()
    areas = np.bincount(flat)
    _, firsts = np.unique(flat, return_index=True)
    labels = segmentation.labels.ravel()[firsts]
    kept = (areas >= max(1, min_area * flat.size)) & (labels < len(segmentation.classes))  # without no data
    if segmentation.background is not None:
        kept &= labels != 0
    if wanted is not None:
        kept &= np.isin(labels, list(wanted))
    numbers = np.flatnonzero(kept)
    boxes = _boxes(components, len(areas))
    objects = [
        _make(segmentation, components, number=int(n), label=int(labels[n]), box=boxes[n].tolist())
        for n in numbers
    ]
    return sorted(objects, key=lambda item: -item.area)


def _make(
    segmentation: "Segmentation", components: npt.NDArray[np.intp], *, number: int, label: int, box: list[int]
) -> SegmentedObject:
    left, top, right, bottom = box
    place = slice(top, bottom), slice(left, right)
    crop = components[place] == number
    rows, columns = np.nonzero(crop)
    scores = segmentation.scores
    return SegmentedObject(
        label=label,
        name=segmentation.classes[label],
        area=len(rows),
        box=(left, top, right - left, bottom - top),
        centroid=(float(columns.mean()) + left + 0.5, float(rows.mean()) + top + 0.5),
        score=None if scores is None else float(scores[place][crop].mean(dtype=np.float64)),
        crop=crop,
        size=(components.shape[0], components.shape[1]),
    )


def _boxes(components: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """Find left, top, right and bottom of each component; right and bottom are exclusive. Shape: (n, 4)."""
    boxes = np.empty((count, 4), np.intp)
    boxes[:, :2] = max(components.shape)
    boxes[:, 2:] = 0
    edges = np.ones(components.shape, np.bool_)  # pixels where a component begins or ends in its row
    edges[:, 1:-1] = (components[:, 1:-1] != components[:, :-2]) | (components[:, 1:-1] != components[:, 2:])
    rows, columns = np.nonzero(edges)
    numbers = components[rows, columns]
    for column, values in ((0, columns), (1, rows)):
        np.minimum.at(boxes[:, column], numbers, values)
    for column, values in ((2, columns + 1), (3, rows + 1)):
        np.maximum.at(boxes[:, column], numbers, values)
    return boxes
