"""Average features of windows with features of the whole photo: ``inference="both"``."""

from collections.abc import Sequence

import numpy as np

from ovsdino_runtime.geometry.types import Floats
from ovsdino_runtime.geometry.windows import Window

SHARE = 0.5  # of the whole photo's features in the average


def blend_whole(
    features: Floats, whole: Floats, windows: Sequence[Window], *, resized: tuple[int, int]
) -> Floats:
    """Average the features at each window node with those of the whole photo at the same place.

    Cosines are linear in the features, so this averages the scores. The results are not unit vectors.

    Args:
        features: features of the windows.
        whole: features of the whole photo, on a grid of any size.
        windows: windows of the resized photo.
        resized: height and width for which the windows were planned [px].

    Shape: (B, D, h, w), (1, D, h', w') -> (B, D, h, w).
    """
    cells = whole[0].transpose(1, 2, 0)  # (h', w', D)
    blended = np.empty_like(features)
    for out, own, window in zip(blended, features, windows, strict=True):
        rows = _sample(window.top, window.height, resized[0], cells=cells.shape[0], nodes=own.shape[1])
        columns = _sample(window.left, window.width, resized[1], cells=cells.shape[1], nodes=own.shape[2])
        inner = np.tensordot(rows, cells, axes=1)  # (h, w', D)
        seen = np.matmul(columns, inner)  # (h, w, D)
        out[:] = (1 - SHARE) * own + SHARE * seen.transpose(2, 0, 1)
    return blended


def _sample(start: int, length: int, side: int, *, cells: int, nodes: int) -> Floats:
    """Return the matrix that interpolates grid cells at a window's nodes, along one axis: (nodes, cells)."""
    centre = start + (np.arange(nodes) + 0.5) * (length / nodes)  # [px] of the resized photo
    place = (centre * (cells / side) - 0.5).clip(0, cells - 1)
    low = np.floor(place).astype(np.intp)
    high = np.minimum(low + 1, cells - 1)
    weights = np.zeros((nodes, cells), np.float32)
    np.add.at(weights, (np.arange(nodes), low), 1 - (place - low))
    np.add.at(weights, (np.arange(nodes), high), place - low)
    return weights
