"""Write objects as data sets for annotation and training tools: COCO, YOLO, labelme and Pascal VOC.

OUT/coco.json                            all photos; masks as compressed run lengths
OUT/yolo/data.yaml, labels/STEM.txt      class and polygon of each object, in 0..1
OUT/labelme/STEM.json                    polygons; opens in labelme with the photo
OUT/voc/names.txt, Annotations/STEM.xml, SegmentationClass/STEM.png
"""

import json
import os
from html import escape
from pathlib import Path

import numpy as np

from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.objects import SegmentedObject
from ovsdino_runtime.base.overlay import palette
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.base.version import version
from ovsdino_runtime.geometry.outlines import join_holes
from ovsdino_runtime.geometry.rle import encode_rle

CATEGORY = "class"  # COCO's supercategory of all


class CocoSet:
    """Collect the objects of photos for one COCO file.

    Args:
        path: the file, which `close` writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: list[dict[str, object]] = []
        self._annotations: list[dict[str, object]] = []
        self._categories: dict[str, int] = {}

    def add(self, segmentation: Segmentation, photo: str) -> Path:
        """Add a photo and its objects; classes are numbered from 1 in order of appearance."""
        for name in object_names(segmentation):
            self._categories.setdefault(name, len(self._categories) + 1)
        number = len(self._images) + 1
        height, width = segmentation.labels.shape
        self._images.append({"id": number, "file_name": photo, "width": width, "height": height})
        for item in segmentation.objects():
            annotation = {
                "id": len(self._annotations) + 1,
                "image_id": number,
                "category_id": self._categories[item.name],
                "segmentation": {"size": [height, width], "counts": encode_rle(item.mask())},
                "area": item.area,
                "bbox": list(item.box),
                "iscrowd": 0,
            }
            score = {} if item.score is None else {"score": round(item.score, 4)}
            self._annotations.append(annotation | score)
        return self._path

    def close(self) -> None:
        """Write the file if a photo was added.

        Raises:
            OutputError: the file cannot be written.
        """
        if not self._images:
            return
        categories = [
            {"id": number, "name": name, "supercategory": CATEGORY}
            for name, number in self._categories.items()
        ]
        record: dict[str, object] = {
            "info": {"description": f"ovsdino {version()}"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
        _write_json(self._path, record)


def save_yolo(segmentation: Segmentation, folder: Path, stem: str) -> Path:
    """Write the objects of a photo as YOLO segmentation labels: class, then x and y of corners in 0..1.

    Source: Ultralytics, "Instance Segmentation Datasets Overview".

    Raises:
        OutputError: a file cannot be written.
    """
    names = object_names(segmentation)
    height, width = segmentation.labels.shape
    lines = []
    for item in segmentation.objects():
        ring = join_holes(item.polygon())[:-1]
        corners = " ".join(f"{x / width:.6g} {y / height:.6g}" for x, y in ring)
        lines.append(f"{names.index(item.name)} {corners}\n")
    listed = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(names))
    _write_text(folder / "data.yaml", f"# photos belong into images/, beside labels/\nnames:\n{listed}")
    file = folder / "labels" / f"{stem}.txt"
    _write_text(file, "".join(lines))
    return file


def save_labelme(segmentation: Segmentation, folder: Path, stem: str, *, photo: Path) -> Path:
    """Write the objects of a photo as polygons of labelme.

    Args:
        segmentation: the result.
        folder: folder of the file.
        stem: name of the file without suffix.
        photo: path of the photo; the file refers to it by a relative path.

    Raises:
        OutputError: the file cannot be written.
    """
    height, width = segmentation.labels.shape
    shapes: list[dict[str, object]] = [
        {
            "label": item.name,
            "points": [[float(x), float(y)] for x, y in join_holes(item.polygon())[:-1]],
            "group_id": None,
            "description": "" if item.score is None else f"confidence {item.score:.2f}",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for item in segmentation.objects()
    ]
    file = folder / f"{stem}.json"
    record = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": _relative(photo, folder),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    _write_json(file, record)
    return file


def save_voc(segmentation: Segmentation, folder: Path, stem: str, *, photo: Path) -> Path:
    """Write the objects of a photo in Pascal VOC's format: boxes in XML, and a PNG of the classes.

    Label 0 of the PNG is the background; label n is line n of ``names.txt``, counted from 0.

    Raises:
        OutputError: a file cannot be written.
    """
    from PIL import Image

    names = ["background", *object_names(segmentation)]
    shift = int(segmentation.background is None)
    labels = segmentation.labels.astype(np.uint16) + shift
    image = Image.fromarray(labels)
    if len(names) <= 255:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(palette(len(names), background=True).tobytes())
    file = folder / "Annotations" / f"{stem}.xml"
    _write_text(folder / "names.txt", "".join(f"{name}\n" for name in names))
    write_whole(folder / "SegmentationClass" / f"{stem}.png", lambda out: image.save(out, "PNG"))
    _write_text(file, _voc_annotation(segmentation, photo))
    return file


def object_names(segmentation: Segmentation) -> tuple[str, ...]:
    """Return the names of classes that have objects: all except the background."""
    return segmentation.classes[int(segmentation.background is not None) :]


def _voc_annotation(segmentation: Segmentation, photo: Path) -> str:
    height, width = segmentation.labels.shape
    objects = "".join(_voc_object(item) for item in segmentation.objects())
    return (
        f"<annotation>\n  <folder>{escape(photo.parent.name, quote=False)}</folder>\n"
        f"  <filename>{escape(photo.name, quote=False)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <segmented>1</segmented>\n{objects}</annotation>\n"
    )


def _voc_object(item: SegmentedObject) -> str:
    left, top, width, height = item.box  # VOC counts pixels from 1, and both ends are inside
    box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
    box += f"<xmax>{left + width}</xmax><ymax>{top + height}</ymax>"
    return (
        f"  <object>\n    <name>{escape(item.name, quote=False)}</name>\n    <pose>Unspecified</pose>\n"
        "    <truncated>0</truncated>\n    <difficult>0</difficult>\n"
        f"    <bndbox>{box}</bndbox>\n  </object>\n"
    )


def _relative(photo: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(photo, folder)).as_posix()
    except ValueError:  # on another drive
        return str(photo.resolve())


def _write_json(path: Path, record: dict[str, object]) -> None:
    text = json.dumps(record, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode(errors="backslashreplace")))
