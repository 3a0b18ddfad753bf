"""Tables from which the device kernels resample a photo, one per image axis.

Resizing is separable: cutting windows out of a photo and upsampling their scores are both
``rows @ values @ columns.T`` with sparse matrices. `Taps` stores the K adjacent non-zero entries of each
matrix row; `Bands` stores, for each block of adjacent rows, the columns in which any of them is non-zero.
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
BLOCK = 16  # nodes per band are padded to a multiple of this: the smallest GPU matrix product


@dataclass(frozen=True, eq=False)
class Taps:
    """A resampling of one axis: output i is the sum over k of ``weights[i, k] * input[starts[i] + k]``."""

    starts: Indices  # (n,), each in 0..side - K
    weights: Floats  # (n, K), each row sums to 1


@dataclass(frozen=True, eq=False)
class Cut:
    """Linear interpolation along one axis of the resized photo, for the n pixels of all windows.

    Pixel i is ``(1 - shares[i]) * resized[lows[i]] + shares[i] * resized[lows[i] + 1]``.
    """

    lows: Indices  # (n,)
    shares: Floats  # (n,) weight of the next pixel, in 0..1


@dataclass(frozen=True, eq=False)
class Bands:
    """For each band of adjacent pixels along one axis: the nodes that it depends on, and their weights."""

    nodes: Indices  # (bands, K) offsets of the node scores; padding repeats one with weight 0
    weights: Floats  # (bands * pixels per band, K), each row sums to 1; rows after the last pixel are 0


def resize_taps(source: int, target: int, *, antialias: bool) -> Taps:
    """Compute the bilinear taps that resize one axis, as `preprocess.resize_photo` does before it rounds.

    Args:
        source, target: length of the axis before and after [px].
        antialias: when shrinking, widen the triangle filter to two output pixels (PIL's bilinear).
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
    """Shift taps that reach over an end of the axis inside it; their weights there are 0."""
    rows, columns = np.nonzero(weights)
    count = min(source, weights.shape[1])
    inside = np.clip(starts, 0, source - count)
    fitted = np.zeros((len(starts), count), np.float32)
    fitted[rows, starts[rows] + columns - inside[rows]] = weights[rows, columns]
    return Taps(inside.astype(np.int32), fitted)


def cut_side(starts: Sequence[int], length: int, *, size: int) -> Cut:
    """Compute the interpolation that cuts windows out of one resized axis.

    Args:
        starts: first pixel of each window [px].
        length: length of a window [px].
        size: length of the engine's input [px]; a shorter window is stretched to it.
    """
    low, _, blend = bilinear_taps(length, size)
    return Cut(np.add.outer(starts, low).ravel().astype(np.int32), np.tile(blend, len(starts)))


def merge_bands(axis: MergeAxis, offsets: Indices, *, pixels: int) -> Bands:
    """Split the merge matrix of one axis into bands.

    Args:
        axis: an axis of `merge.MergeGeometry`.
        offsets: offset of each node's score in the score array, in values.
        pixels: number of pixels in a band.
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
    """Return offsets of node rows and node columns into the scores of a class, (windows, h, w).

    The score of a node lies at the sum of its row's and its column's offset.
    """
    h, w = grid
    across = len({window.left for window in windows})
    rows = np.arange(len(windows) // across)[:, None] * (across * h * w) + np.arange(h) * w
    columns = np.arange(across)[:, None] * (h * w) + np.arange(w)
    return rows.ravel().astype(np.int32), columns.ravel().astype(np.int32)
