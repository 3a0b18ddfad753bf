"""The geometry of a photo as tables, one for each of its sides: what the device's kernels read.

Cutting windows out of a photo and spreading their scores over it are both ``rows @ values @ columns.T`` with
matrices that are nearly empty. `Taps` keeps a few neighbouring entries of each of their rows, `Bands` the few
columns that matter to some neighbouring rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.merge import MergeAxis
from ovsdino_runtime.geometry.preprocess import bilinear_taps
from ovsdino_runtime.geometry.types import Floats
from ovsdino_runtime.geometry.windows import Window

Indices = npt.NDArray[np.int32]
BLOCK = 16  # nodes of a band come in multiples of it: the least that a GPU's matrix product takes


@dataclass(frozen=True, eq=False)
class Taps:
    """For each of n values, the K neighbouring values along one side that it is the weighted sum of."""

    starts: Indices  # (n,), each in 0..side - K
    weights: Floats  # (n, K), each row sums to 1


@dataclass(frozen=True, eq=False)
class Cut:
    """For each of n values of all windows, the value of the resized side that it is, or is near to."""

    lows: Indices  # (n,)
    shares: Floats  # (n,) of the value behind it, in 0..1


@dataclass(frozen=True, eq=False)
class Bands:
    """For each band of neighbouring pixels along one side, the nodes that it depends on, and how."""

    nodes: Indices  # (bands, K): where a node's score lies; some are repeated, with no weight
    weights: Floats  # (bands * pixels of a band, K), each row sums to 1; empty rows behind the last pixel


def resize_taps(source: int, target: int, *, antialias: bool) -> Taps:
    """Resize one side, as `preprocess.resize_photo` does before it rounds to whole numbers.

    Args:
        source, target: lengths of the side [px].
        antialias: average over all pixels that fall into one, by a triangle as wide as two of them.
    """
    reach = max(source / target, 1.0) if antialias else 1.0  # [px] from the centre
    centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    if not antialias:
        centre = centre.clip(0, source - 1)
    starts = np.floor(centre - reach).astype(np.int64) + 1
    places = starts[:, None] + np.arange(int(np.ceil(2 * reach)))  # (n, K)
    inside = (places >= 0) & (places < source)
    weights = np.maximum(1 - np.abs(places - centre[:, None]) / reach, 0) * inside
    return _fit(starts, weights / weights.sum(axis=1, keepdims=True), source)


def _fit(starts: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], source: int) -> Taps:
    """Move taps that hang over an end of the side inside; they have no weight."""
    rows, columns = np.nonzero(weights)
    count = min(source, weights.shape[1])
    inside = np.clip(starts, 0, source - count)
    fitted = np.zeros((len(starts), count), np.float32)
    fitted[rows, starts[rows] + columns - inside[rows]] = weights[rows, columns]
    return Taps(inside.astype(np.int32), fitted)


def cut_side(starts: Sequence[int], length: int, *, size: int) -> Cut:
    """Cut windows out of one resized side; a window that is shorter than ``size`` is stretched.

    Args:
        starts: where windows begin [px].
        length: of a window [px].
        size: what it is stretched to [px].
    """
    low, _, blend = bilinear_taps(length, size)
    return Cut(np.add.outer(starts, low).ravel().astype(np.int32), np.tile(blend, len(starts)))


def merge_bands(axis: MergeAxis, offsets: Indices, *, pixels: int) -> Bands:
    """Cut one matrix of a merge into bands.

    Args:
        axis: of `merge.MergeGeometry`.
        offsets: where the score of each node lies, in values.
        pixels: of a band.
    """
    bands = list(axis.bands(pixels))
    count = -(-max(len(band.nodes) for band in bands) // BLOCK) * BLOCK
    nodes = np.empty((len(bands), count), np.int32)
    weights = np.zeros((len(bands), pixels, count), np.float32)
    for index, band in enumerate(bands):
        nodes[index] = offsets[band.nodes[0]]
        nodes[index, : len(band.nodes)] = offsets[band.nodes]
        weights[index, : len(band.weights), : len(band.nodes)] = band.weights
    return Bands(nodes, weights.reshape(-1, count))


def node_offsets(windows: Sequence[Window], grid: tuple[int, int]) -> tuple[Indices, Indices]:
    """Say where the scores of a class lie, (windows, h, w): a node's is at the sum of both its offsets.

    Returns:
        Offsets of the rows of nodes, and of the columns, of all windows.
    """
    h, w = grid
    across = len({window.left for window in windows})
    rows = np.arange(len(windows) // across)[:, None] * (across * h * w) + np.arange(h) * w
    columns = np.arange(across)[:, None] * (h * w) + np.arange(w)
    return rows.ravel().astype(np.int32), columns.ravel().astype(np.int32)
