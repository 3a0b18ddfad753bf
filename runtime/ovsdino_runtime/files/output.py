"""Write results atomically: overlays, indexed PNG, JSON, COCO RLE and GeoJSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.overlay import Colours, palette
from ovsdino_runtime.base.png import Chunk, text_chunk, write_indexed_png, write_png
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.base.version import version

if TYPE_CHECKING:
    from PIL.Image import Image

    from ovsdino_runtime.files.geojson import Georeference

Kind = Literal["overlay", "labels", "json", "rle", "geojson", "gpkg", "coco", "yolo", "labelme", "voc"]
SUFFIXES: dict[Kind, str] = {
    "overlay": "_overlay.png",
    "labels": "_labels.png",
    "json": ".json",
    "rle": "_rle.jsonl",
    "geojson": ".geojson",
    "gpkg": ".gpkg",
}
MARK = text_chunk("Software", "ovsdino")  # in PNGs, so that a result among photos is no photo of the next run


def save_overlay(segmentation: Segmentation, path: str | Path) -> None:
    """Write the overlay as PNG: the photo with coloured regions and a legend.

    Raises:
        OutputError: the file cannot be written.
    """
    pixels = np.asarray(segmentation.overlay())
    write_whole(Path(path), lambda file: write_png(file, pixels, chunks=[MARK]))


def save_labels(segmentation: Segmentation, path: str | Path) -> None:
    """Write the labels as PNG: indexed with the overlay's colours, or 16-bit grey for more than 256 classes.

    The value of a pixel is its label: ``numpy.asarray(PIL.Image.open(path))`` returns the labels.

    Raises:
        OutputError: the file cannot be written.
    """
    write_whole(Path(path), lambda file: write_labels(segmentation, file, chunks=[MARK]))


def write_labels(segmentation: Segmentation, file: BinaryIO, *, chunks: Iterable[Chunk]) -> None:
    """Write the labels as `save_labels` does into an open file, with further chunks."""
    write_indexed_png(file, segmentation.labels, _label_colours(segmentation), chunks=chunks)


def _label_colours(segmentation: Segmentation) -> Colours | None:
    """Return the colours of an indexed image of the labels; None if it needs more than 256."""
    shown = max(len(segmentation.classes), int(segmentation.labels.max()) + 1)
    return None if shown > 256 else palette(shown, background=segmentation.background is not None)


def labels_image(segmentation: Segmentation) -> "Image":
    """Return the labels as a Pillow image; see `save_labels`."""
    from PIL import Image

    colours = _label_colours(segmentation)
    if colours is None:
        return Image.fromarray(segmentation.labels)
    image = Image.fromarray(segmentation.labels.astype(np.uint8))
    image.putpalette(colours.tobytes())
    return image


def save_json(segmentation: Segmentation, path: str | Path, *, photo: str = "") -> None:
    """Write JSON: each class with its coverage and mean score, the model, versions, timings.

    Args:
        segmentation: the result.
        path: the file.
        photo: name of the photo to record.

    Raises:
        OutputError: the file cannot be written.
    """
    text = json.dumps(describe_segmentation(segmentation, photo=photo), indent=2, ensure_ascii=False) + "\n"
    write_whole(Path(path), lambda file: file.write(text.encode(errors="backslashreplace")))


def save_rle(segmentation: Segmentation, path: str | Path, *, photo: str = "") -> None:
    """Write each region's mask as a line of JSON in the format of COCO's annotations; see `rle_lines`.

    Raises:
        OutputError: the file cannot be written.
    """
    text = "".join(rle_lines(segmentation, photo=photo))
    write_whole(Path(path), lambda file: file.write(text.encode(errors="backslashreplace")))


def save_geojson(segmentation: Segmentation, path: str | Path, place: "Georeference") -> None:
    """Write the outlines of regions in ground coordinates; see `to_geojson`.

    Raises:
        OutputError: the file cannot be written.
    """
    from ovsdino_runtime.files.geojson import to_geojson

    text = json.dumps(to_geojson(segmentation, place), ensure_ascii=False) + "\n"
    write_whole(Path(path), lambda file: file.write(text.encode(errors="backslashreplace")))


def rle_lines(segmentation: Segmentation, *, photo: str) -> list[str]:
    """Describe each region in a line of JSON; see `rle_records`."""
    records = rle_records(segmentation)
    return [json.dumps({"image": photo, **record}, ensure_ascii=False) + "\n" for record in records]


def rle_records(segmentation: Segmentation) -> list[dict[str, object]]:
    """Describe each region, the largest first: COCO's compressed run lengths, area, box and score.

    ``category_id`` is the label; ``bbox`` is left, top, width, height [px].
    """
    from ovsdino_runtime.geometry.rle import encode_rle

    records: list[dict[str, object]] = []
    height, width = segmentation.labels.shape
    for region in segmentation.regions():
        mask = segmentation.labels == region.label
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        records.append(
            {
                "category_id": region.label,
                "category": region.name,
                "segmentation": {"size": [height, width], "counts": encode_rle(mask)},
                "area": region.pixels,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "score": _round(region.score),
            }
        )
    return records


def describe_segmentation(segmentation: Segmentation, *, photo: str) -> dict[str, object]:
    """Return the JSON record of a segmentation: regions, model, versions and timings."""
    height, width = segmentation.labels.shape
    return {
        "photo": photo,
        "height": height,
        "width": width,
        "model": segmentation.model,
        "model_digest": segmentation.model_digest,
        "classes": segmentation.classes,
        "background": segmentation.background,
        "background_classes": segmentation.background_classes,
        "regions": [
            asdict(region) | {"coverage": round(region.coverage, 6), "score": _round(region.score)}
            for region in segmentation.regions(absent=True)
        ],
        "notes": segmentation.notes,
        "versions": {"ovsdino": version(), "engine": segmentation.engine},
        "timings_ms": dict(segmentation.timings),
    }


def _round(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
