"""Convert results to predictions of Label Studio: brush masks, polygons or boxes to correct by hand."""

from collections.abc import Iterator, Mapping
from typing import Any

from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.geometry.outlines import join_holes
from ovsdino_runtime.integrations.brush_rle import encode_brush_rle
from ovsdino_runtime.integrations.class_masks import class_masks
from ovsdino_runtime.integrations.labeling_config import Control


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
    """
    classes = segmentation.classes[0 if segmentation.background is None else 1 :]
    labels = {name: (name,) for name in classes}
    control = Control(kind="brushlabels", name=from_name, image=to_name, field="image", labels=labels)
    return as_prediction(list(predict_regions(segmentation, control)), model_version(segmentation))


def model_version(segmentation: Segmentation) -> str:
    """Return the version under which Label Studio keeps the predictions of a model."""
    return f"{segmentation.model}-{segmentation.model_digest[:12]}"


def as_prediction(regions: list[dict[str, Any]], version: str) -> dict[str, Any]:
    """Wrap regions as a prediction, whose score is the mean of theirs."""
    scores = [region["score"] for region in regions if region["score"] is not None]
    return {
        "model_version": version,
        "score": float(sum(scores)) / len(scores) if scores else None,
        "result": regions,
    }


def predict_regions(segmentation: Segmentation, control: Control) -> Iterator[dict[str, Any]]:
    """Yield the regions of a tag's labels: one brush mask a class, or one polygon or box an object.

    Args:
        segmentation: the result; besides the background, its classes are those of `control` in order.
        control: a tag of the labelling interface.
    """
    height, width = segmentation.labels.shape
    classes = segmentation.classes[0 if segmentation.background is None else 1 :]
    names = dict(zip(classes, control.labels, strict=True))
    for name, score, value in _VALUES[control.kind](segmentation):
        yield {
            "type": control.kind,
            "from_name": control.name,
            "to_name": control.image,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": None if score is None else float(score),
            "value": {**value, control.kind: [names[name]]},
        }


Value = tuple[str, float | None, Mapping[str, Any]]  # name and confidence of a class, its pixels


def _brush_values(segmentation: Segmentation) -> Iterator[Value]:
    for each in class_masks(segmentation):
        yield each.name, each.score, {"format": "rle", "rle": encode_brush_rle(each.mask)}


def _polygon_values(segmentation: Segmentation) -> Iterator[Value]:
    height, width = segmentation.labels.shape
    for item in segmentation.objects():
        ring = join_holes(item.polygon())[:-1]
        points = [[100 * x / width, 100 * y / height] for x, y in ring]
        yield item.name, item.score, {"points": points, "closed": True}


def _rectangle_values(segmentation: Segmentation) -> Iterator[Value]:
    height, width = segmentation.labels.shape
    for item in segmentation.objects():
        left, top, across, down = item.box
        box = {
            "x": 100 * left / width,
            "y": 100 * top / height,
            "width": 100 * across / width,
            "height": 100 * down / height,
        }
        yield item.name, item.score, {**box, "rotation": 0}


_VALUES = {
    "brushlabels": _brush_values,
    "polygonlabels": _polygon_values,
    "rectanglelabels": _rectangle_values,
}
