"""Masks of the classes in a segmentation, which the connectors convert."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.segmentation import Segmentation


@dataclass(frozen=True, eq=False)
class ClassMask:
    """The pixels of one class."""

    label: int
    name: str
    score: float | None  # mean confidence, 0..1; None where the scores are not known
    mask: npt.NDArray[np.bool_]  # (H, W)


def class_masks(segmentation: Segmentation) -> list[ClassMask]:
    """List the masks of the classes that occur, the largest first, without the background."""
    return [
        ClassMask(
            label=region.label, name=region.name, score=region.score, mask=segmentation.labels == region.label
        )
        for region in segmentation.regions()
        if segmentation.background is None or region.label
    ]
