"""Convert results to the format of transformers' ``image-segmentation`` pipeline; needs only Pillow."""

from typing import Any

from PIL import Image

from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.integrations.class_masks import class_masks


def to_transformers(segmentation: Segmentation) -> list[dict[str, Any]]:
    """Convert a segmentation to the output format of ``pipeline("image-segmentation")``.

    Returns:
        For each class that occurs, the largest first: ``label`` (its name), ``score`` (mean confidence in
        0..1, or None), ``mask`` (a Pillow image of mode L: 255 inside, 0 outside). No background.
    """
    return [
        {
            "label": each.name,
            "score": None if each.score is None else float(each.score),
            "mask": Image.fromarray(each.mask).convert("L"),
        }
        for each in class_masks(segmentation)
    ]
