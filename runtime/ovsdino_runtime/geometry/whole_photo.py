"""Average what windows show with what one look at the whole photo shows: `inference="both"`."""

from collections.abc import Sequence

import numpy as np

from ovsdino_runtime.geometry.types import Floats
from ovsdino_runtime.geometry.windows import Window

SHARE = 0.5  # of the whole photo's features in the average


def blend_whole(
    features: Floats, whole: Floats, windows: Sequence[Window], *, resized: tuple[int, int]
) -> Floats:
    """Average each node of the windows with the whole photo's features at the same place.

    Cosines are linear in the features, so this averages the scores. The results are no unit vectors.

    Args:
        features: of the windows.
        whole: of the whole photo, in a grid of any size that is spread over it.
        windows: of the resized photo.
        resized: height and width that the windows were planned for [px].

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
    """Write the bilinear look-up of a window's nodes among the cells of a side. Shape: (nodes, cells)."""
    centre = start + (np.arange(nodes) + 0.5) * (length / nodes)  # [px] of the resized photo
    place = (centre * (cells / side) - 0.5).clip(0, cells - 1)
    low = np.floor(place).astype(np.intp)
    high = np.minimum(low + 1, cells - 1)
    weights = np.zeros((nodes, cells), np.float32)
    np.add.at(weights, (np.arange(nodes), low), 1 - (place - low))
    np.add.at(weights, (np.arange(nodes), high), place - low)
    return weights
