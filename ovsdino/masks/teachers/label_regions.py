"""Convert a label map to regions: one mask per word, unknown pixels, and words with only a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovsdino.masks.store.shards import MaskRegion, PhotoMasks, Rle
from ovsdino.masks.teachers.concepts import FIRST, UNKNOWN, Concepts

Labels = NDArray[np.uint16]  # (H, W) concept numbers


@dataclass(frozen=True)
class BoxedWord:
    """A word that occurs in a box, without a mask."""

    number: int  # of the concept
    box: tuple[float, float, float, float]  # left, top, right, bottom in 0..1 of the photo
    probability: float


def photo_masks(image: str, labels: Labels, *, words: list[BoxedWord], concepts: Concepts) -> PhotoMasks:
    """Convert a label map and words without a mask to the record of a photo.

    Args:
        image: path of the photo, relative to its folder.
        labels: concept numbers. Shape: (H, W).
        words: words that occur in a box, without a mask.
        concepts: the meaning of the numbers.
    """
    height, width = labels.shape
    masks: dict[str, NDArray[np.bool_]] = {}
    for number in np.unique(labels):
        if number >= FIRST:
            noun = concepts[int(number)].names[0]
            masks[noun] = masks.get(noun, np.False_) | (labels == number)  # two concepts may share a name
    regions = [
        MaskRegion(noun=noun, rle=Rle.encode(mask), score=1.0, box=bounds(mask))
        for noun, mask in masks.items()
    ]
    scale = (width, height, width, height)
    for word in words:
        left, top, right, bottom = (round(v * side, 1) for v, side in zip(word.box, scale, strict=True))
        noun = concepts[word.number].names[0]
        regions.append(
            MaskRegion(noun=noun, rle=None, score=word.probability, box=(left, top, right, bottom))
        )
    unknown = labels == UNKNOWN
    return PhotoMasks(
        image=image,
        height=height,
        width=width,
        source="segmenters",
        regions=tuple(regions),
        exclusive=True,
        closed=concepts.closed,
        ignore=Rle.encode(unknown) if unknown.any() else None,
    )


def bounds(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return the smallest box around a mask that is not empty: left, top, right, bottom [px]."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
