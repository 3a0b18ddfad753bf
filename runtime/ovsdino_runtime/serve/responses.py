"""Response bodies of a segmentation: a PNG of the labels or the overlay, or JSON with the regions."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from ovsdino_runtime.base import png
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.files.output import describe_segmentation, rle_records, write_labels

Format = Literal["png", "overlay", "rle", "base64"]
PNG_TEXT = "ovsdino"  # the key of the PNG's text


class Problem(BaseModel):
    """An error: what is wrong, and what to do."""

    error: str


class RunLengths(BaseModel):
    """A mask as COCO's compressed run lengths, in column order."""

    size: tuple[int, int] = Field(description="height and width [px]")
    counts: str


class RegionBody(BaseModel):
    """All pixels of one class."""

    label: int
    name: str
    area: int = Field(description="[px]")
    coverage: float = Field(ge=0, le=1, description="share of the photo")
    score: float | None = Field(ge=0, le=1, description="mean confidence")
    bbox: tuple[int, int, int, int] = Field(description="left, top, width, height [px]")
    segmentation: RunLengths | None = Field(None, description="the mask; with format=rle")


class SegmentationBody(BaseModel):
    """A segmentation as JSON; regions are sorted by size, largest first."""

    width: int = Field(description="[px]")
    height: int = Field(description="[px]")
    model: str
    classes: list[str] = Field(description="the name of each label")
    background: float | None = Field(description="confidence below which a pixel is background, label 0")
    background_classes: list[str] = Field(description="names of classes that count as background")
    regions: list[RegionBody]
    not_found: list[str] = Field(description="names of classes that occur nowhere")
    model_digest: str = Field(description="of the model's graphs and weights")
    notes: list[str] = Field(description="what had to be decided to read the photo")
    versions: dict[str, str]
    timings_ms: dict[str, float]
    labels_png: str | None = Field(
        None, description="the labels as an indexed PNG in base64; with format=base64"
    )
    overlay_png: str | None = Field(
        None, description="the photo with coloured regions as a PNG in base64; with format=base64"
    )


def write_png(segmentation: Segmentation) -> bytes:
    """Write the labels as `save_labels` does, with the class names and notes in a text chunk."""
    write_labels(segmentation, file := BytesIO(), chunks=_about(segmentation))
    return file.getvalue()


def write_overlay(segmentation: Segmentation) -> bytes:
    """Write the photo with coloured regions and a legend as a PNG, with the same text chunk."""
    png.write_png(file := BytesIO(), np.asarray(segmentation.overlay()), chunks=_about(segmentation))
    return file.getvalue()


def write_rle(segmentation: Segmentation) -> bytes:
    """Write the regions with their masks as JSON; see `SegmentationBody`."""
    return json.dumps(_regions_body(segmentation, masks=True), ensure_ascii=False).encode()


def write_base64(segmentation: Segmentation) -> bytes:
    """Write the regions, the labels' PNG and the overlay's PNG as one JSON; see `SegmentationBody`."""
    pictures = {"labels_png": write_png(segmentation), "overlay_png": write_overlay(segmentation)}
    encoded = {key: base64.b64encode(png).decode() for key, png in pictures.items()}
    return json.dumps(_regions_body(segmentation, masks=False) | encoded, ensure_ascii=False).encode()


# What writes each format, and its media type.
WRITERS: dict[Format, tuple[Callable[[Segmentation], bytes], str]] = {
    "png": (write_png, "image/png"),
    "overlay": (write_overlay, "image/png"),
    "rle": (write_rle, "application/json"),
    "base64": (write_base64, "application/json"),
}


def _about(segmentation: Segmentation) -> list[png.Chunk]:
    """Return a PNG's text chunk with the class names and notes."""
    from PIL.PngImagePlugin import PngInfo

    about = {
        "classes": segmentation.classes,
        "background": segmentation.background,
        "model": segmentation.model,
        "notes": segmentation.notes,
    }
    text = PngInfo()
    text.add_itxt(PNG_TEXT, json.dumps(about, ensure_ascii=False), zip=True)
    return [(kind, data) for kind, data, *_ in text.chunks]


def _regions_body(segmentation: Segmentation, *, masks: bool) -> dict[str, Any]:
    """Describe a segmentation as `SegmentationBody` does, with the regions' masks or without."""
    about = describe_segmentation(segmentation, photo="")
    height, width = segmentation.labels.shape
    regions = [
        {
            "label": record["category_id"],
            "name": record["category"],
            "area": record["area"],
            "coverage": round(region.coverage, 6),
            "score": record["score"],
            "bbox": record["bbox"],
            **({"segmentation": record["segmentation"]} if masks else {}),
        }
        for region, record in zip(segmentation.regions(), rle_records(segmentation), strict=True)
    ]
    copied = (
        *("model", "model_digest", "classes", "background", "background_classes"),
        *("notes", "versions", "timings_ms"),
    )
    return {
        "width": width,
        "height": height,
        **{key: about[key] for key in copied},
        "regions": regions,
        "not_found": segmentation.absent(),
    }
