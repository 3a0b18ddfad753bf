"""A reduced picture of a large raster and its labels, collected tile by tile."""

from pathlib import Path

import numpy as np

from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.overlay import draw_overlay
from ovsdino_runtime.base.segmentation import Segmentation, no_data_label
from ovsdino_runtime.geometry.types import Labels, Photo
from ovsdino_runtime.geometry.windows import Window

MAX_SIDE = 2048  # [px]


class RasterOverview:
    """Reduces a raster by a whole factor; memory depends on ``max_side`` alone.

    A pixel's colour is the mean of its square of the raster, its label that of the square's middle.

    Args:
        height, width: size of the raster [px].
        classes: names of the labels.
        background: threshold of the background, which is label 0; None: there is none.
        max_side: largest side of the reduced picture [px].
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        classes: tuple[str, ...],
        background: float | None,
        max_side: int = MAX_SIDE,
    ) -> None:
        self.factor = max(1, -(-max(height, width) // max_side))
        size = -(-height // self.factor), -(-width // self.factor)
        self._classes, self._background = classes, background
        self._sums = np.zeros((*size, 3), np.uint32)
        self._counts = np.zeros((*size, 1), np.uint32)
        self._labels = np.full(size, no_data_label(len(classes)), np.uint16)

    def add(self, place: Window, photo: Photo, labels: Labels) -> None:
        """Add a part of the raster.

        Args:
            place: where the part lies.
            photo: its pixels, (h, w, 3).
            labels: its labels, (h, w).
        """
        rows = np.arange(place.top, place.top + place.height) // self.factor
        columns = np.arange(place.left, place.left + place.width) // self.factor
        firsts = np.unique(rows, return_index=True)[1], np.unique(columns, return_index=True)[1]
        target = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        sums = np.add.reduceat(photo, firsts[0], axis=0, dtype=np.uint32)
        self._sums[target] += np.add.reduceat(sums, firsts[1], axis=1)
        counts = np.outer(np.bincount(rows - rows[0]), np.bincount(columns - columns[0]))
        self._counts[target] += counts[:, :, None].astype(np.uint32)
        middle = self.factor // 2
        down = slice((middle - place.top) % self.factor, None, self.factor)
        across = slice((middle - place.left) % self.factor, None, self.factor)
        if rows[down].size and columns[across].size:
            self._labels[np.ix_(rows[down], columns[across])] = labels[down, across]

    def reduced(self) -> tuple[Photo, Labels]:
        """Return the reduced picture and its labels. Shape: (h, w, 3), (h, w)."""
        photo = np.empty(self._sums.shape, np.uint8)
        for row, (sums, counts) in enumerate(zip(self._sums, self._counts, strict=True)):
            photo[row] = (sums + counts // 2) // np.maximum(counts, 1)
        return photo, self._labels

    def save(self, path: Path) -> None:
        """Write the overlay of the reduced picture as PNG.

        Raises:
            OutputError: the file cannot be written.
        """
        photo, labels = self.reduced()
        segmentation = Segmentation(
            photo, labels, None, self._classes, self._background, model="", engine="", timings={}
        )
        image = draw_overlay(segmentation)
        write_whole(path, lambda file: image.save(file, "PNG"))
