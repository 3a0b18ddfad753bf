"""Draw a result with supervision, and measure it in a zone: python examples/with_supervision.py PHOTO OUT."""

import sys

import numpy as np
import supervision as sv
from PIL import Image

from ovsdino_runtime import Segmenter
from ovsdino_runtime.integrations.supervision import to_supervision

CLASSES = "road|street, bus, car, person, grass|lawn, tree, signboard"


def main(photo: str, out: str) -> None:
    """Segment a photo, draw masks and names, and print what covers the lower half."""
    with Segmenter.load("nano") as segmenter:
        segmentation = segmenter(photo, CLASSES)
    detections = to_supervision(segmentation)
    names = [
        f"{name} {score:.0%}"
        for name, score in zip(detections["class_name"], detections.confidence, strict=True)
    ]
    picture = Image.fromarray(segmentation.photo)
    picture = sv.MaskAnnotator(color_lookup=sv.ColorLookup.CLASS).annotate(picture, detections)
    labels = sv.LabelAnnotator(
        color_lookup=sv.ColorLookup.CLASS, text_position=sv.Position.CENTER_OF_MASS, smart_position=True
    )
    labels.annotate(picture, detections, names).save(out)

    height, width = segmentation.labels.shape
    lower_half = sv.polygon_to_mask(
        np.array([[0, height // 2], [width, height // 2], [width, height], [0, height]]), (width, height)
    ).astype(bool)
    for name, mask in zip(detections["class_name"], detections.mask, strict=True):
        print(f"{name}: {(mask & lower_half).sum() / lower_half.sum():.1%} of the lower half")


if __name__ == "__main__":
    main(*sys.argv[1:])
