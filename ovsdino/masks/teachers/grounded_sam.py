"""The paper's source of masks: Grounding DINO detects nouns, SAM segments their boxes.

Source: OVS-DINO. It states neither thresholds nor how boxes are selected: the thresholds are those of the
closest public script, the selection is our reconstruction or that script's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import MaskRegion, PhotoMasks, Rle
from ovsdino.masks.teachers.device import choose_device
from ovsdino.masks.teachers.grounding import (
    BoxThresholds,
    GroundingDino,
    NounBoxes,
    Selection,
    open_grounding_dino,
)
from ovsdino.masks.teachers.sam import BoxMasks, load_sam
from ovsdino_runtime.geometry.types import Photo

NAME = "grounding-dino+sam"


@dataclass(frozen=True, kw_only=True)
class GroundedSamOptions:
    """The networks, and thresholds for boxes and masks."""

    detector: str = "IDEA-Research/grounding-dino-tiny"  # a folder, or a name in the hub's local cache
    sam: Path = Path("sam_vit_h_4b8939.pth")
    thresholds: BoxThresholds = field(default_factory=BoxThresholds)
    selection: Selection = "noun"  # see `GroundingDino`
    min_area: float = 0.001  # share of the photo; smaller masks are dropped
    device: str | None = "cpu"  # None: a GPU where there is one

    @property
    def name(self) -> str:
        """The source's name."""
        return NAME

    def describe(self) -> dict[str, object]:
        """Return everything that the masks depend on."""
        return {
            "detector": Path(self.detector).name,
            "sam": self.sam.name,
            "box_threshold": self.thresholds.box,
            "text_threshold": self.thresholds.text,
            "nms_iou": self.thresholds.nms_iou,
            "selection": self.selection,
            "least_area": self.min_area,
        }

    def open(self) -> GroundedSam:
        """Load both networks.

        Raises:
            MaskError: a network is missing or damaged, or there is no such device.
        """
        device = choose_device(self.device)
        masks = BoxMasks(load_sam(self.sam, device))
        detector = open_grounding_dino(self.detector, self.thresholds, device, selection=self.selection)
        return GroundedSam(detector, masks, self.min_area)


@dataclass(frozen=True)
class GroundedSam:
    """Detect nouns and unite the masks of each noun's boxes; masks of two nouns may overlap."""

    boxes: GroundingDino
    masks: BoxMasks
    min_area: float

    def __call__(self, photo: Photo, task: PhotoNouns) -> PhotoMasks:
        """Find the masks of a photo's nouns. Shape: photo (H, W, 3) RGB."""
        boxes_of_nouns = self.boxes(photo, task.nouns) if task.nouns else []
        regions: list[MaskRegion] = []
        if boxes_of_nouns:
            masks = self.masks(photo, torch.cat([noun_boxes.boxes for noun_boxes in boxes_of_nouns]))
            for noun_boxes in boxes_of_nouns:
                count = len(noun_boxes.boxes)
                own, masks = masks[:count], masks[count:]
                if (union := np.logical_or.reduce(own)).mean() >= self.min_area:
                    regions.append(_region(noun_boxes, union))
        present = {region.noun for region in regions}
        return PhotoMasks(
            image=task.image,
            height=photo.shape[0],
            width=photo.shape[1],
            source=NAME,
            regions=tuple(regions),
            exclusive=False,
            closed=(),
            ignore=None,
            absent=tuple(word for word in (*task.nouns, *task.others) if word not in present),
        )


def _region(noun_boxes: NounBoxes, mask: npt.NDArray[np.bool_]) -> MaskRegion:
    low, high = noun_boxes.boxes.amin(0).tolist(), noun_boxes.boxes.amax(0).tolist()
    left, top, right, bottom = (round(side, 1) for side in (*low[:2], *high[2:]))
    score = round(float(noun_boxes.scores[0]), 4)
    return MaskRegion(noun=noun_boxes.noun, rle=Rle.encode(mask), score=score, box=(left, top, right, bottom))
