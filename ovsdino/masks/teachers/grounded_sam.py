"""The paper's source of masks: Grounding DINO detects nouns, SAM segments their boxes.

Source: OVS-DINO; the thresholds are those of the closest public script, and our reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import PhotoMasks, Region, Rle
from ovsdino.masks.teachers.device import choose_device
from ovsdino.masks.teachers.grounding import BoxThresholds, GroundingDino, NounBoxes, open_grounding_dino
from ovsdino.masks.teachers.sam import BoxMasks, load_sam
from ovsdino_runtime.geometry.types import Photo

NAME = "grounding-dino+sam"


@dataclass(frozen=True)
class GroundedSamOptions:
    """Which networks, and which boxes and masks count."""

    detector: str = "IDEA-Research/grounding-dino-tiny"  # a folder, or a name in the hub's local cache
    sam: Path = Path("sam_vit_h_4b8939.pth")
    thresholds: BoxThresholds = field(default_factory=BoxThresholds)
    min_area: float = 0.001  # share of the photo; smaller masks are dropped
    device: str | None = "cpu"  # None: a GPU where there is one

    @property
    def name(self) -> str:
        """The source's name."""
        return NAME

    def described(self) -> dict[str, object]:
        """Return what the masks depend on."""
        return {
            "detector": Path(self.detector).name,
            "sam": self.sam.name,
            "box_threshold": self.thresholds.box,
            "text_threshold": self.thresholds.text,
            "nms_iou": self.thresholds.nms_iou,
            "least_area": self.min_area,
        }

    def open(self) -> GroundedSam:
        """Load both networks.

        Raises:
            MaskError: one is missing or damaged, or there is no such device.
        """
        device = choose_device(self.device)
        masks = BoxMasks(load_sam(self.sam, device))
        return GroundedSam(open_grounding_dino(self.detector, self.thresholds, device), masks, self.min_area)


@dataclass(frozen=True)
class GroundedSam:
    """Boxes of nouns, and the union of each noun's masks; masks of two nouns may overlap."""

    boxes: GroundingDino
    masks: BoxMasks
    min_area: float

    def __call__(self, photo: Photo, task: PhotoNouns) -> PhotoMasks:
        """Find the masks of a photo's nouns. Shape: photo (H, W, 3) RGB."""
        found = self.boxes(photo, task.nouns) if task.nouns else []
        regions: list[Region] = []
        if found:
            masks = self.masks(photo, torch.cat([one.boxes for one in found]))
            for one in found:
                mine, masks = masks[: len(one.boxes)], masks[len(one.boxes) :]
                if (union := np.logical_or.reduce(mine)).mean() >= self.min_area:
                    regions.append(_region(one, union))
        there = {region.noun for region in regions}
        return PhotoMasks(
            image=task.image,
            height=photo.shape[0],
            width=photo.shape[1],
            source=NAME,
            regions=tuple(regions),
            exclusive=False,
            closed=(),
            ignore=None,
            absent=tuple(word for word in (*task.nouns, *task.others) if word not in there),
        )


def _region(found: NounBoxes, mask: npt.NDArray[np.bool_]) -> Region:
    low, high = found.boxes.amin(0).tolist(), found.boxes.amax(0).tolist()
    left, top, right, bottom = (round(side, 1) for side in (*low[:2], *high[2:]))
    return Region(found.noun, Rle.encode(mask), round(float(found.scores[0]), 4), (left, top, right, bottom))
