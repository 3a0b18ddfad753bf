"""Run a segmenter on several views of a photo: the whole, and four overlapping zoomed corners."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ovsdino.masks.teachers.tflite import ByteLabels
from ovsdino_runtime.geometry.types import Photo

# Side of a corner over the photo's. On 8 photos of ADE20K the labels' mIoU rises from 51.7 for the whole
# to 56.8; 0.65 gives 55.5, and the mirrored photo as one more view gives nothing.
CORNER = 0.75

Network = Callable[[Photo], ByteLabels]


def label_in_views(network: Network, photo: Photo) -> ByteLabels:
    """Label each pixel by majority vote of the views; ties go to the whole photo, else to the lowest label.

    Shape: photo (H, W, 3) RGB -> (H, W).
    """
    whole = network(photo)
    views = [(whole, (slice(None), slice(None)))]
    views += [(network(np.ascontiguousarray(photo[corner])), corner) for corner in corners(whole.shape)]
    labels = np.zeros_like(whole)
    max_count = np.zeros(whole.shape, np.float32)
    for label in np.unique(np.concatenate([part.ravel() for part, _ in views])):
        votes = np.where(whole == label, np.float32(0.5), np.float32(0))  # decides between equals
        for part, place in views:
            votes[place] += part == label
        better = votes > max_count
        labels[better], max_count[better] = label, votes[better]
    return labels


def corners(size: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yield the four corners of a photo of (height, width) pixels."""
    height, width = (max(1, round(CORNER * side)) for side in size)
    for top in (0, size[0] - height):
        for left in (0, size[1] - width):
            yield slice(top, top + height), slice(left, left + width)
