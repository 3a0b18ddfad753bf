"""Convert results to predictions of Label Studio (extra ``label-studio``): brush masks to correct by hand."""

from typing import Any

import numpy as np

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.integrations.class_masks import class_masks


def to_label_studio(
    segmentation: Segmentation, *, from_name: str = "tag", to_name: str = "image"
) -> dict[str, Any]:
    """Convert a segmentation to a prediction of Label Studio, with a brush mask for each class.

    Label Studio imports a JSON list of ``{"data": {"image": ADDRESS}, "predictions": [PREDICTION]}`` as
    pre-annotated tasks.

    Args:
        segmentation: the result. Its background is left out.
        from_name: the name of ``<BrushLabels>`` in the project's labelling interface.
        to_name: the name of its ``<Image>``.

    Raises:
        OutputError: label-studio-sdk is not installed.
    """
    try:
        from label_studio_sdk.converter.brush import mask2rle
    except ImportError as error:
        raise OutputError(
            f"to_label_studio needs label-studio-sdk ({error}); {install_command('label-studio')}"
        ) from error
    height, width = segmentation.labels.shape
    masks = class_masks(segmentation)
    regions = [
        {
            "type": "brushlabels",
            "from_name": from_name,
            "to_name": to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": None if each.score is None else float(each.score),
            "value": {
                "format": "rle",
                "rle": mask2rle(255 * each.mask.astype(np.uint8)),
                "brushlabels": [each.name],
            },
        }
        for each in masks
    ]
    scores = [each.score for each in masks if each.score is not None]
    return {
        "model_version": f"{segmentation.model}-{segmentation.model_digest[:12]}",
        "score": float(sum(scores)) / len(scores) if scores else None,
        "result": regions,
    }
