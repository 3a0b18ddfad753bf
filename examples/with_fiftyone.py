"""Label a folder of photos in FiftyOne, and draw the labels: python examples/with_fiftyone.py PHOTOS OUT."""

import sys
from collections import Counter

import fiftyone as fo

from ovsdino_runtime import Segmenter
from ovsdino_runtime.integrations.fiftyone import fiftyone_model

THINGS, REST = "bus, car, person", "surroundings"


def main(photos: str, out: str) -> None:
    """Add masks of the classes and of their objects to a data set, and print how many objects there are."""
    dataset = fo.Dataset.from_images_dir(photos)
    with Segmenter.load("nano") as segmenter:
        masks = fiftyone_model(segmenter, THINGS, background_classes=REST)
        dataset.apply_model(masks, label_field="classes", skip_failures=False)
        objects = fiftyone_model(segmenter, THINGS, background_classes=REST, objects=True)
        dataset.apply_model(objects, label_field="objects", skip_failures=False)
    dataset.mask_targets["classes"] = masks.mask_targets
    dataset.save()
    dataset.draw_labels(
        out,
        label_fields=["objects"],
        per_object_label_colors=True,
        show_object_names=False,
        hide_all_names=True,
    )
    found = Counter(item.label for sample in dataset for item in sample["objects"].detections)
    for name, count in found.most_common():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main(*sys.argv[1:])
