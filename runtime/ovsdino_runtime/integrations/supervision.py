"""Convert results to ``supervision.Detections`` (extra ``supervision``) for trackers, zones, annotators."""

from typing import TYPE_CHECKING

import numpy as np

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.integrations.class_masks import class_masks

if TYPE_CHECKING:
    import supervision


def to_supervision(segmentation: Segmentation) -> "supervision.Detections":
    """Convert a result to ``supervision.Detections``, one detection for each class that occurs.

    Example:
        >>> detections = to_supervision(segmenter("street.jpg", "car, road, sky"))
        >>> picture = sv.MaskAnnotator().annotate(picture, detections)

    Args:
        segmentation: the result; its background is left out.

    Returns:
        Detections, largest class first: ``mask`` (n, H, W), ``xyxy`` [px] around each mask, ``class_id``
        (labels), ``confidence`` (mean confidence, None without scores) and ``data["class_name"]``.

    Raises:
        OutputError: supervision is not installed.
    """
    try:
        import supervision as sv
    except ImportError as error:
        raise OutputError(
            f"to_supervision needs supervision ({error}); {install_command('supervision')}"
        ) from error
    classes = class_masks(segmentation)
    if not classes:
        return sv.Detections.empty()
    masks = np.stack([each.mask for each in classes])
    scores = [each.score for each in classes if each.score is not None]
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(masks).astype(np.float32),
        mask=masks,
        class_id=np.array([each.label for each in classes]),
        confidence=np.array(scores, np.float32) if len(scores) == len(classes) else None,
        data={"class_name": np.array([each.name for each in classes])},
    )
