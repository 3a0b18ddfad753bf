"""Find the best class of each pixel from window features and class embeddings, in little memory.

Scores are cosines at the nodes of each window's coarse grid. For a score per pixel, each window is upsampled
to its size in the resized photo, overlapping windows are averaged, and the average is resized to the photo.
All three steps are linear and separable, and windows form a grid, so for each class

    scores (H, W) = rows @ mosaic @ columns.T

with the mosaic of the nodes of all windows (window rows * h, window columns * w) and two banded matrices that
depend only on the geometry. Their entries are >= 0 and each row sums to 1. Within a tile of the photo, a
class that scores less than another one at each node cannot win, nor one whose best node is below all scores
so far; both are skipped. Classes are processed in portions with a running best, the photo in tiles and the
matrices in bands, so that memory grows only with the number of pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.best_class import keep_best
from ovsdino_runtime.geometry.preprocess import bilinear_taps
from ovsdino_runtime.geometry.types import Floats, Labels
from ovsdino_runtime.geometry.windows import Window, window_weights

MOSAIC_BYTES = 8 << 20  # scores of all nodes for the classes that are taken at once
TILE_SCORES = 1 << 17  # interpolated at once: they stay in the processor's cache
# Pixels of a product of matrices: too few for OpenBLAS to use threads, which wait for each other; on a busy
# machine that takes 30 times as long as the work itself.
PRODUCT_PIXELS = 1 << 15
SLACK = 1e-5  # on what cannot win: more than rounding can add to a score
TILE_NODES = 4, 8  # of a tile, down and across: fewer make more tiles, more let more classes compete
MIN_BAND, MAX_BAND = 80, 4096  # [px] along one side of a tile


@dataclass(frozen=True)
class Band:
    """Adjacent pixels along one axis, the nodes that they depend on, and their weights."""

    pixels: slice
    nodes: npt.NDArray[np.intp]  # (k,)
    weights: Floats  # (pixels, k)


@dataclass(frozen=True, eq=False)
class MergeAxis:
    """The merge matrix of one axis: how node scores are interpolated along it.

    The matrix (length, nodes) is never held as a whole, because an axis may have millions of pixels. Its rows
    are computed on demand from those of the resized photo.
    """

    merged: Floats  # (side of the resized photo, nodes): the overlapping windows' average; rows sum to 1
    length: int  # of the photo's side [px]

    @property
    def nodes(self) -> int:
        """Number of nodes along this axis."""
        return int(self.merged.shape[1])

    def weights(self, start: int, stop: int) -> Floats:
        """Return the matrix rows of pixels start..stop. Shape: (stop - start, nodes), each row sums to 1."""
        return self._spread(start, stop, np.arange(self.nodes))

    def bands(self, step: int) -> Iterator[Band]:
        """Yield the bands of ``step`` adjacent pixels, in order."""
        for start in range(0, self.length, step):
            stop = min(start + step, self.length)
            low, high, _ = bilinear_taps(len(self.merged), self.length, start=start, stop=stop)
            near = np.flatnonzero(self.merged[low[0] : high[-1] + 1].any(axis=0))
            weights = self._spread(start, stop, near)
            used = weights.any(axis=0)
            yield Band(slice(start, stop), near[used], np.ascontiguousarray(weights[:, used]))

    def _spread(self, start: int, stop: int, nodes: npt.NDArray[np.intp]) -> Floats:
        low, high, blend = bilinear_taps(len(self.merged), self.length, start=start, stop=stop)
        merged = self.merged[low[0] : high[-1] + 1, nodes]
        low, high = low - low[0], high - low[0]
        weights: Floats = merged[low] * (1 - blend[:, None]) + merged[high] * blend[:, None]
        return weights


@dataclass(frozen=True, eq=False)
class MergeGeometry:
    """The merge matrices of both axes."""

    rows: MergeAxis  # (H, window rows * h)
    columns: MergeAxis  # (W, window columns * w)


def merge_geometry(
    windows: Sequence[Window],
    grid: tuple[int, int],
    *,
    resized: tuple[int, int],
    photo: tuple[int, int],
    taper: float | None = None,
) -> MergeGeometry:
    """Compute the two matrices of a merge.

    Args:
        windows: windows of the resized photo, in row-major order; they form a grid.
        grid: h and w of a window's features.
        resized: height and width for which the windows were planned [px].
        photo: height and width of the result [px].
        taper: how overlapping windows are weighted; see `window_weights`.
    """
    tops = sorted({window.top for window in windows})
    lefts = sorted({window.left for window in windows})
    first = windows[0]
    rows = _average_windows(tops, first.height, cells=grid[0], resized=resized[0], taper=taper)
    columns = _average_windows(lefts, first.width, cells=grid[1], resized=resized[1], taper=taper)
    return MergeGeometry(MergeAxis(rows, photo[0]), MergeAxis(columns, photo[1]))


def merge_argmax(features: Floats, text: Floats, geometry: MergeGeometry) -> tuple[Labels, Floats]:
    """Find the best class of each pixel, and its cosine.

    Args:
        features: unit vectors at the nodes of each window; windows in row-major order.
        text: unit vector of each class.
        geometry: merge geometry of these windows.

    Shape: (B, D, h, w), (N, D) -> (H, W) in 0..N-1, (H, W).
    """
    best = BestClass(geometry)
    for first in range(0, len(text), best.max_count):
        part = text[first : first + best.max_count]
        best.take(np.moveaxis(_node_scores(features, part, geometry), 0, 2), first=first)
    return best.labels, best.scores


def merge_scores(features: Floats, text: Floats, geometry: MergeGeometry) -> Floats:
    """Compute the cosine of every class at every pixel. Memory grows with classes times pixels.

    Shape: (B, D, h, w), (N, D) -> (N, H, W).
    """
    cosines = _node_scores(features, text, geometry)  # (N, window rows * h, window columns * w)
    length, width = geometry.rows.length, geometry.columns.length
    spread = np.empty((*cosines.shape[:2], width), np.float32)
    for band in geometry.columns.bands(_step(geometry.columns, TILE_NODES[1])):
        np.matmul(cosines[:, :, band.nodes], band.weights.T, out=spread[:, :, band.pixels])
    scores = np.empty((len(text), length, width), np.float32)
    for band in geometry.rows.bands(_step(geometry.rows, TILE_NODES[0])):
        np.matmul(band.weights, spread[:, band.nodes], out=scores[:, band.pixels])
    return scores


class BestClass:
    """Keep the best class of each pixel and its score, while classes arrive in portions.

    Memory grows only with the number of pixels: not with the number of classes, nor with pixels times nodes.

    Args:
        geometry: how node scores are interpolated over the photo.
    """

    def __init__(self, geometry: MergeGeometry) -> None:
        self._rows, self._columns = geometry.rows, geometry.columns
        self.max_count = max(1, MOSAIC_BYTES // (4 * self._rows.nodes * self._columns.nodes))  # at once
        self.labels: Labels = np.zeros((self._rows.length, self._columns.length), np.uint16)
        self.scores = np.full(self.labels.shape, -np.inf, np.float32)

    def take(self, scores: Floats, *, first: int) -> None:
        """Update the labels where a class of this portion scores higher than all before.

        Args:
            scores: scores of these classes at all nodes.
            first: index of the first of these classes.

        Shape: (window rows * h, window columns * w, n).
        """
        for rows, columns in self._tiles():
            pixels = (rows.pixels, columns.pixels)
            _take_best(
                scores, rows, columns, first=first, labels=self.labels[pixels], best=self.scores[pixels]
            )

    def _tiles(self) -> Iterator[tuple[Band, Band]]:
        """Yield all tiles; the bands of the shorter axis are kept, those of the longer one are generated."""
        rows = self._rows.bands(_step(self._rows, TILE_NODES[0]))
        columns = self._columns.bands(_step(self._columns, TILE_NODES[1]))
        if self._rows.length < self._columns.length:
            held = list(rows)
            return ((band, column) for column in columns for band in held)
        held = list(columns)
        return ((row, band) for row in rows for band in held)


def _step(axis: MergeAxis, nodes: int) -> int:
    """Choose how many pixels make a band, so that it has about so many nodes."""
    return min(MAX_BAND, max(MIN_BAND, nodes * axis.length // axis.nodes))


def _average_windows(
    starts: list[int], length: int, *, cells: int, resized: int, taper: float | None
) -> Floats:
    """Return the weighted average of the windows along one axis as a matrix: (resized, windows * cells)."""
    low, high, blend = bilinear_taps(cells, length)
    upsample = np.zeros((length, cells), np.float32)
    np.add.at(upsample, (np.arange(length), low), 1 - blend)
    np.add.at(upsample, (np.arange(length), high), blend)
    upsample *= window_weights(length, taper)[:, None]
    merged = np.zeros((resized, len(starts) * cells), np.float32)
    for index, start in enumerate(starts):
        merged[start : start + length, index * cells : (index + 1) * cells] = upsample
    merged /= merged.sum(axis=1, keepdims=True)
    return merged


def _node_scores(features: Floats, text: Floats, geometry: MergeGeometry) -> Floats:
    """Compute the cosine of each class at the nodes of all windows.

    Shape: (B, D, h, w), (N, D) -> (N, window rows * h, window columns * w).
    """
    count, width, h, w = features.shape
    down, across = geometry.rows.nodes // h, geometry.columns.nodes // w
    cosines: Floats = np.matmul(text, features.reshape(count, width, h * w))  # (B, N, h * w)
    tiles = cosines.reshape(down, across, len(text), h, w).transpose(2, 0, 3, 1, 4)  # (N, down, h, across, w)
    return tiles.reshape(len(text), down * h, across * w)


def _take_best(
    scores: Floats, rows: Band, columns: Band, *, first: int, labels: Labels, best: Floats
) -> None:
    nodes = scores[rows.nodes[:, None], columns.nodes]  # (k, k', n)
    rival = nodes[:, :, [nodes.min(axis=(0, 1)).argmax()]]  # (k, k', 1)
    can_win = (nodes >= rival - SLACK).any(axis=(0, 1)) & (nodes.max(axis=(0, 1)) >= best.min() - SLACK)
    classes = np.flatnonzero(can_win)
    if not len(classes):
        return
    spread = np.matmul(nodes[:, :, classes].transpose(2, 0, 1), columns.weights.T)  # (n', k, tile's W)
    step = max(1, min(PRODUCT_PIXELS, TILE_SCORES // len(classes)) // best.shape[1])
    for top in range(0, len(best), step):
        part = slice(top, top + step)
        merged = np.matmul(rows.weights[part], spread)  # (n', part's H, tile's W)
        keep_best(merged, classes + first, labels=labels[part], best=best[part])
