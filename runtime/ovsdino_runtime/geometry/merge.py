"""From the windows' features and the classes' embeddings to one label a pixel: exact, fast, in little memory.

Scores are cosines at the nodes of each window's coarse grid. To get one score a pixel, each window is
upsampled to its size in the resized photo, overlapping windows are averaged, and the average is resized to
the photo. All three are linear and separable, and windows form a grid, so for each class

    scores (H, W) = rows @ mosaic @ columns.T

with the mosaic of all windows' nodes (window rows * h, window columns * w) and two banded matrices that
depend on the geometry alone. Their entries are >= 0 and each of their rows sums to 1: within a tile of the
photo no class scores more than its best node there, so one that stays below another's worst node cannot win
and is left out. Classes are taken some at a time with a running best: memory does not grow with their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.preprocess import bilinear_taps
from ovsdino_runtime.geometry.types import Floats, Labels
from ovsdino_runtime.geometry.windows import Window

MOSAIC_BYTES = 8 << 20  # scores of all nodes for the classes that are taken at once
# Scores interpolated at once. Few enough to stay in the processor's cache, and for OpenBLAS to stay in one
# thread: its threads wait for each other, which on a busy machine takes 30 times the work itself.
TILE_SCORES = 1 << 15
SLACK = 1e-5  # on what cannot win: more than rounding can add to a score


@dataclass(frozen=True)
class MergeGeometry:
    """How the coarse scores of all windows are spread over the photo."""

    rows: Floats  # (H, window rows * h), each row sums to 1
    columns: Floats  # (W, window columns * w), each row sums to 1


def merge_geometry(
    windows: Sequence[Window], grid: tuple[int, int], *, resized: tuple[int, int], photo: tuple[int, int]
) -> MergeGeometry:
    """Work out the two matrices of a merge.

    Args:
        windows: of the resized photo, in row-major order, forming a grid.
        grid: h and w of a window's features.
        resized: height and width that the windows were planned for [px].
        photo: height and width of the result [px].
    """
    tops = sorted({window.top for window in windows})
    lefts = sorted({window.left for window in windows})
    first = windows[0]
    return MergeGeometry(
        _axis(tops, first.height, cells=grid[0], resized=resized[0], photo=photo[0]),
        _axis(lefts, first.width, cells=grid[1], resized=resized[1], photo=photo[1]),
    )


def merge_argmax(features: Floats, text: Floats, geometry: MergeGeometry) -> tuple[Labels, Floats]:
    """Find the best class of each pixel, and its cosine.

    Args:
        features: unit vectors of each window's grid, windows in row-major order.
        text: unit vector of each class.
        geometry: of these windows.

    Shape: (B, D, h, w), (N, D) -> (H, W) in 0..N-1, (H, W).
    """
    mosaic = _mosaic(features, geometry)  # (window rows * h, window columns * w, D)
    flat = mosaic.reshape(-1, mosaic.shape[2])
    best = BestClass(geometry)
    for first in range(0, len(text), best.max_count):
        # In one product: many small ones are slower.
        best.take((flat @ text[first : first + best.max_count].T).reshape(*mosaic.shape[:2], -1), first=first)
    return best.labels, best.scores


class BestClass:
    """The best class of each pixel so far, and its score, as classes come some at a time.

    Args:
        geometry: how scores at the nodes are spread over the photo.
    """

    def __init__(self, geometry: MergeGeometry) -> None:
        nodes = geometry.rows.shape[1] * geometry.columns.shape[1]
        self.max_count = max(1, MOSAIC_BYTES // (4 * nodes))  # classes to give at once
        self.labels: Labels = np.zeros((len(geometry.rows), len(geometry.columns)), np.uint16)
        self.scores = np.full(self.labels.shape, -np.inf, np.float32)
        self._tiles = list(product(_bands(geometry.rows), _bands(geometry.columns)))

    def take(self, scores: Floats, *, first: int) -> None:
        """Improve the labels where one of some classes is better than all before.

        Args:
            scores: of these classes at all nodes.
            first: number of the first of them.

        Shape: (window rows * h, window columns * w, n).
        """
        for rows, columns in self._tiles:
            pixels = (rows.pixels, columns.pixels)
            _take_best(
                scores, rows, columns, first=first, labels=self.labels[pixels], best=self.scores[pixels]
            )


def _axis(starts: list[int], length: int, *, cells: int, resized: int, photo: int) -> Floats:
    low, high, blend = bilinear_taps(cells, length)
    upsample = np.zeros((length, cells), np.float32)
    np.add.at(upsample, (np.arange(length), low), 1 - blend)
    np.add.at(upsample, (np.arange(length), high), blend)
    merged = np.zeros((resized, len(starts) * cells), np.float32)
    for index, start in enumerate(starts):
        merged[start : start + length, index * cells : (index + 1) * cells] = upsample
    merged /= merged.sum(axis=1, keepdims=True)  # how many windows overlap
    low, high, blend = bilinear_taps(resized, photo)
    weights: Floats = merged[low] * (1 - blend[:, None]) + merged[high] * blend[:, None]
    return weights


def _mosaic(features: Floats, geometry: MergeGeometry) -> Floats:
    _, width, h, w = features.shape
    down, across = geometry.rows.shape[1] // h, geometry.columns.shape[1] // w
    tiles = features.reshape(down, across, width, h, w).transpose(0, 3, 1, 4, 2)  # (down, h, across, w, D)
    return tiles.reshape(down * h, across * w, width)


@dataclass(frozen=True)
class _Band:
    """Some pixels along one side, the nodes that they depend on, and how."""

    pixels: slice
    nodes: npt.NDArray[np.intp]  # (k,)
    weights: Floats  # (pixels, k)


def _bands(matrix: Floats) -> list[_Band]:
    step = max(16, 2 * len(matrix) // matrix.shape[1])  # [px] about two nodes, so that few classes compete
    bands = []
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step]
        nodes = np.flatnonzero(block.any(axis=0))
        bands.append(_Band(slice(start, start + len(block)), nodes, np.ascontiguousarray(block[:, nodes])))
    return bands


def _take_best(
    scores: Floats, rows: _Band, columns: _Band, *, first: int, labels: Labels, best: Floats
) -> None:
    nodes = scores[rows.nodes[:, None], columns.nodes]  # (k, k', n)
    floor = max(nodes.min(axis=(0, 1)).max(), best.min()) - SLACK
    classes = np.flatnonzero(nodes.max(axis=(0, 1)) >= floor)
    if not len(classes):
        return
    spread = columns.weights @ nodes[:, :, classes]  # (k, tile's W, n')
    flat = spread.reshape(len(rows.nodes), -1)
    step = max(1, TILE_SCORES // flat.shape[1])
    for top in range(0, len(best), step):
        part = best[top : top + step]
        merged = (rows.weights[top : top + step] @ flat).reshape(-1, len(classes))  # (part's pixels, n')
        winner = merged.argmax(axis=1)
        value = merged[np.arange(len(merged)), winner].reshape(part.shape)
        better = value > part
        np.copyto(part, value, where=better)
        np.copyto(
            labels[top : top + step],
            (classes[winner] + first).reshape(part.shape),
            where=better,
            casting="unsafe",
        )
