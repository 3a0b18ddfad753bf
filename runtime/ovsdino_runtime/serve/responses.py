"""Response bodies of a segmentation: an indexed PNG, or JSON with COCO run lengths."""

import json
from io import BytesIO

from pydantic import BaseModel, Field

from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.files.output import describe, labels_image, rle_records

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
    segmentation: RunLengths


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
    versions: dict[str, str]
    timings_ms: dict[str, float]


def write_png(segmentation: Segmentation) -> bytes:
    """Encode the labels as `save_labels` does, with the class names in a text chunk of the PNG."""
    from PIL.PngImagePlugin import PngInfo

    about = {
        "classes": segmentation.classes,
        "background": segmentation.background,
        "model": segmentation.model,
    }
    text = PngInfo()
    text.add_itxt(PNG_TEXT, json.dumps(about, ensure_ascii=False), zip=True)
    labels_image(segmentation).save(file := BytesIO(), "PNG", pnginfo=text)
    return file.getvalue()


def write_rle(segmentation: Segmentation) -> bytes:
    """Encode the regions and their masks as JSON; see `SegmentationBody`."""
    about = describe(segmentation, photo="")
    height, width = segmentation.labels.shape
    regions = [
        {
            "label": record["category_id"],
            "name": record["category"],
            "area": record["area"],
            "coverage": round(region.coverage, 6),
            "score": record["score"],
            "bbox": record["bbox"],
            "segmentation": record["segmentation"],
        }
        for region, record in zip(segmentation.regions(), rle_records(segmentation), strict=True)
    ]
    copied = "model", "model_digest", "classes", "background", "background_classes", "versions", "timings_ms"
    answer = {
        "width": width,
        "height": height,
        **{key: about[key] for key in copied},
        "regions": regions,
        "not_found": segmentation.absent(),
    }
    return json.dumps(answer, ensure_ascii=False).encode()
