"""Compute labels from full-size masks, as mmsegmentation does: upsample, average, resize, argmax.

The runtime averages logits, which are linear in the features, without computing full-size masks.
Probabilities are not linear, so protocols that average them need this slower path.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ovsdino_runtime.geometry.preprocess import resize_bilinear
from ovsdino_runtime.geometry.types import Floats, Labels
from ovsdino_runtime.geometry.windows import Window

CLASSES_AT_ONCE = 16  # whose masks are in memory together
Refine = Callable[[int, Floats], Floats]  # number of the window, masks (H, W, n) -> (H, W, n)


def merge_masks(
    masks: Sequence[Floats],
    windows: Sequence[Window],
    *,
    resized: tuple[int, int],
    photo: tuple[int, int],
    align_corners: bool,
    refine: Refine | None = None,
) -> tuple[Labels, Floats]:
    """Return the best class of each pixel and its averaged score.

    Source: open-mmlab/mmsegmentation 0.30, ``mmseg/models/segmentors/encoder_decoder.py: slide_inference``.

    Args:
        masks: masks of each window. Shape: (h, w, N) each.
        windows: the windows of the resized photo.
        resized: height and width of the resized photo [px].
        photo: height and width of the result [px].
        align_corners: how masks are upsampled to their window; the last resize never aligns corners.
        refine: changes upsampled masks before they are averaged, such as PAMR.

    Shape: -> (H, W) in 0..N-1, (H, W).
    """
    labels = np.zeros(photo, np.uint16)
    best = np.full(photo, -np.inf, np.float32)
    count = np.zeros((*resized, 1), np.float32)
    for window in windows:
        count[area(window)] += 1
    enlarge = resize_aligned if align_corners else resize_bilinear
    for first in range(0, masks[0].shape[2], CLASSES_AT_ONCE):
        total: Floats = np.zeros((*resized, min(CLASSES_AT_ONCE, masks[0].shape[2] - first)), np.float32)
        for number, (mask, window) in enumerate(zip(masks, windows, strict=True)):
            full = enlarge(mask[:, :, first : first + CLASSES_AT_ONCE], window.height, window.width)
            total[area(window)] += full if refine is None else refine(number, full)
        scores = resize_bilinear(total / count, *photo)  # (H, W, n)
        winner = scores.argmax(axis=2)
        value = np.take_along_axis(scores, winner[:, :, None], axis=2)[:, :, 0]
        better = value > best
        best = np.where(better, value, best)
        labels = np.where(better, winner + first, labels).astype(np.uint16)
    return labels, best


def put_background(labels: Labels, scores: Floats, threshold: float | None) -> Labels:
    """Set pixels whose best score does not exceed the threshold to 0; classes are then numbered from 1.

    The official code prepends a constant channel to the classes and takes the argmax; of equal values the
    first wins. Without a threshold nothing changes. Shape: (H, W) each.
    """
    if threshold is None:
        return labels
    return np.where(scores <= threshold, 0, labels + 1).astype(np.uint16)


def resize_aligned(image: Floats, height: int, width: int) -> Floats:
    """Resize with two taps per axis and aligned corners: ``align_corners=True`` in torch.

    Shape: (h, w, n) -> (height, width, n).
    """
    for axis, target in ((0, height), (1, width)):
        source = image.shape[axis]
        place = np.linspace(0, source - 1, target)
        low = np.floor(place).astype(np.intp)
        high = np.minimum(low + 1, source - 1)
        blend = (place - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = image.take(low, axis) * (1 - blend) + image.take(high, axis) * blend
    return image


def area(window: Window) -> tuple[slice, slice]:
    """Return the rows and columns of a window as slices."""
    rows = slice(window.top, window.top + window.height)
    return rows, slice(window.left, window.left + window.width)
