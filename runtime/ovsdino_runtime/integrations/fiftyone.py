"""Convert results to labels of FiftyOne, and give `apply_model` a model (extra ``fiftyone``)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.objects import MIN_AREA
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.geometry.types import Array
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import choose_classes

if TYPE_CHECKING:
    import fiftyone as fo
    from fiftyone.core.models import Model


def to_fiftyone(segmentation: Segmentation) -> "fo.Segmentation":
    """Convert a result to a ``fiftyone.Segmentation``.

    FiftyOne does not show pixels of value 0: they are the background and pixels without data. Classes have
    the values of `mask_targets`.

    Example:
        >>> sample["classes"] = to_fiftyone(segmentation)
        >>> dataset.mask_targets["classes"] = mask_targets(segmentation.classes, background=False)

    Args:
        segmentation: the result.

    Raises:
        OutputError: fiftyone is not installed.
    """
    fo = _import_fiftyone()
    first = 0 if segmentation.background is not None else 1  # value of label 0
    count = len(segmentation.classes)
    values = np.where(segmentation.labels < count, segmentation.labels.astype(np.int64) + first, 0)
    return fo.Segmentation(mask=values.astype(np.uint8 if count + first <= 256 else np.uint16))


def mask_targets(classes: Iterable[str], *, background: bool) -> dict[int, str]:
    """Return the class of each value in the masks of `to_fiftyone`, for ``dataset.mask_targets``.

    Args:
        classes: names of a result's labels, ``segmentation.classes``.
        background: whether label 0 is the background: ``segmentation.background is not None``.
    """
    names = enumerate(classes, start=0 if background else 1)
    return {value: name for value, name in names if value}


def to_fiftyone_objects(segmentation: Segmentation, *, min_area: float = MIN_AREA) -> "fo.Detections":
    """Convert the objects of a result to ``fiftyone.Detections``, with mask, box and mean confidence.

    Objects are the connected components of a class; see `Segmentation.objects`.

    Args:
        segmentation: the result; its background has no objects.
        min_area: share of the photo, 0..1, below which objects are left out.

    Raises:
        OutputError: fiftyone is not installed.
        OptionError: ``min_area`` is not in 0..1.
    """
    fo = _import_fiftyone()
    height, width = segmentation.labels.shape
    detections = []
    for item in segmentation.objects(min_area=min_area):
        left, top, across, down = item.box
        box = [left / width, top / height, across / width, down / height]
        detections.append(
            fo.Detection(label=item.name, bounding_box=box, mask=item.crop, confidence=item.score)
        )
    return fo.Detections(detections=detections)


def fiftyone_model(
    segmenter: Segmenter,
    classes: str,
    *,
    background_classes: str | None = None,
    objects: bool = False,
    min_area: float = MIN_AREA,
) -> "Model":
    """Create a model for ``dataset.apply_model``.

    Its property ``mask_targets`` names the values of its masks.

    Example:
        >>> model = fiftyone_model(segmenter, "car, road, sky")
        >>> dataset.apply_model(model, label_field="classes")
        >>> dataset.mask_targets["classes"] = model.mask_targets

    Args:
        segmenter: the model; the caller closes it.
        classes: names of the classes, such as "car|automobile, road".
        background_classes: classes that get no label, such as "surroundings".
        objects: return ``Detections`` instead of a ``Segmentation``. Choose it to count or evaluate objects.
        min_area: share of the photo, 0..1, below which objects are left out.

    Raises:
        OutputError: fiftyone is not installed.
        ClassesError: the classes do not form a valid vocabulary.
    """
    _import_fiftyone()
    from fiftyone.core.models import Model

    choice = segmenter.choose(choose_classes(classes, background_classes=background_classes))

    class SegmenterModel(Model):  # type: ignore[misc,unused-ignore] # the library has no types
        """FiftyOne's interface around a segmenter."""

        config = None
        media_type = "image"  # of videos, FiftyOne passes each frame
        mask_targets = mask_targets(choice.vocabulary.names, background=choice.threshold is not None)
        ragged_batches = True  # photos of one call may have different sizes
        transforms = None
        preprocess = False

        def predict(self, image: Array) -> Any:  # noqa: ANN401
            """Label an image. Shape: image (H, W, 3) RGB, uint8."""
            segmentation = segmenter(image, choice.vocabulary)
            if objects:
                return to_fiftyone_objects(segmentation, min_area=min_area)
            return to_fiftyone(segmentation)

    return SegmenterModel()


def _import_fiftyone() -> Any:  # noqa: ANN401 - the library has no types
    try:
        import fiftyone
    except ImportError as error:
        raise OutputError(
            f"labels of FiftyOne need fiftyone ({error}); {install_command('fiftyone')}"
        ) from error
    return fiftyone
