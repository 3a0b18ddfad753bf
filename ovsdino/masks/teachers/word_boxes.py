"""Find boxes of which an ImageNet classifier is certain: a thousand words, without masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ovsdino.masks.errors import MaskError
from ovsdino.network.checkpoint import check_values, require_floats
from ovsdino_runtime.geometry.types import Photo

SCALES = ((1.0, 1), (0.55, 3))  # (side of the box over the photo's, boxes along each side)
INPUT = 224  # [px] the classifier's input
NAME = "vit_tiny_patch16_224"

Box = tuple[float, float, float, float]  # left, top, right, bottom in 0..1 of the photo


@dataclass(frozen=True)
class NamedBox:
    """A box and its class according to the classifier."""

    box: Box
    label: int  # of ImageNet's thousand
    probability: float


def grid() -> list[Box]:
    """Return the boxes to classify: the whole photo and 3 x 3 overlapping boxes."""
    boxes: list[Box] = []
    for side, count in SCALES:
        starts = [0.0] if count == 1 else [float(s) for s in np.linspace(0, 1 - side, count)]
        boxes += [(x, y, x + side, y + side) for y in starts for x in starts]
    return boxes


class WordBoxes:
    """ViT-Ti/16 with its ImageNet head over a grid of boxes.

    Raises:
        MaskError: the checkpoint is missing or belongs to another network.
        CheckpointError: the file contains values that are not weights.
    """

    def __init__(self, checkpoint: Path, device: str = "cpu") -> None:
        import timm
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not checkpoint.is_file():
            raise MaskError(
                f"{checkpoint}: no such file; get ViT-Ti/16: hf download timm/{NAME}.augreg_in21k_ft_in1k"
            )
        self.model = timm.create_model(NAME).eval().to(device)
        try:
            tensors = load_file(checkpoint)
            check_values(tensors, checkpoint)
            require_floats(tensors, tensors, checkpoint)
            self.model.load_state_dict(tensors, strict=True)
        except (SafetensorError, RuntimeError) as error:
            raise MaskError(f"{checkpoint}: not {NAME} ({' '.join(str(error).split())[:120]})") from error

    @torch.inference_mode()
    def __call__(self, photo: Photo, *, minimum: float) -> list[NamedBox]:
        """Return the boxes whose best class has at least probability ``minimum``. Shape: photo (H, W, 3)."""
        image, boxes = Image.fromarray(photo), grid()
        scale = np.array([image.width, image.height] * 2)
        crops = [
            np.asarray(
                image.resize((INPUT, INPUT), Image.Resampling.BILINEAR, box=tuple(np.array(b) * scale))
            )
            for b in boxes
        ]
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(device)  # (boxes, 3, 224, 224)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = self.model(pixels.float() / 127.5 - 1)
        sure, label = logits.float().softmax(-1).max(-1)
        return [
            NamedBox(
                (round(b[0], 3), round(b[1], 3), round(b[2], 3), round(b[3], 3)), int(i), round(float(p), 3)
            )
            for b, p, i in zip(boxes, sure, label, strict=True)
            if p >= minimum
        ]
