"""An auto-annotation function for CVAT (extra ``cvat``): `cvat-cli task auto-annotate` calls it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ovsdino_runtime.base.errors import ClassesError, OutputError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.integrations.class_masks import class_masks
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import choose_classes

if TYPE_CHECKING:
    from PIL.Image import Image


class CvatFunction:
    """Return a mask for each class in a picture to CVAT.

    Args:
        segmenter: the model.
        classes: "car|automobile, road": the first word of each is the label's name in the task.
        background_classes: classes that get no mask, such as "surroundings".

    Raises:
        OutputError: cvat-sdk is not installed.
        ClassesError: the classes do not form a valid vocabulary.
    """

    def __init__(self, segmenter: Segmenter, classes: str, background_classes: str | None = None) -> None:
        try:
            import cvat_sdk.auto_annotation as cvat
            from cvat_sdk.masks import encode_mask
        except ImportError as error:
            raise OutputError(
                f"annotating in CVAT needs cvat-sdk ({error}); {install_command('cvat')}"
            ) from error
        self._cvat, self._encode_mask = cvat, encode_mask
        self._segmenter = segmenter
        self._vocabulary = choose_classes(classes, background_classes=background_classes)
        self._ids = {words[0]: number for number, words in enumerate(self._vocabulary.classes)}
        labels = [cvat.label_spec(name, number, type="mask") for name, number in self._ids.items()]
        self.spec = cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: "Image") -> list[Any]:  # noqa: ANN401 - cvat-sdk's types
        """Segment a picture. CVAT calls this method.

        Masks whose mean confidence is below CVAT's ``--conf-threshold`` are left out.

        Raises:
            OutputError: CVAT asks for polygons.
        """
        if context.conv_mask_to_poly:
            raise OutputError("CVAT asks for polygons; run without --conv-mask-to-poly to get masks")
        segmentation = self._segmenter(np.asarray(image.convert("RGB")), self._vocabulary)
        min_score = context.conf_threshold or 0.0
        return [
            self._cvat.mask(self._ids[each.name], self._encode_mask(each.mask))
            for each in class_masks(segmentation)
            if each.score is None or each.score >= min_score
        ]


def create(classes: str = "", background_classes: str | None = None, model: str = "nano") -> CvatFunction:
    """Create the function from the parameters of ``cvat-cli``.

    Example:
        ``cvat-cli task auto-annotate 137 --function-module ovsdino_runtime.integrations.cvat
        -p "classes=str:car, road, sky"``

    Raises:
        ClassesError: there are no classes.
        OvsdinoError: the model cannot be opened.
    """
    if not classes:
        raise ClassesError('name the task\'s labels: -p "classes=str:car, road, sky"')
    return CvatFunction(Segmenter.load(model), classes, background_classes)
