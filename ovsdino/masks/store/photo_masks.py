"""The record of a photo: nouns with their regions, and nouns that are certainly absent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.rle import decode_rle, encode_rle


@dataclass(frozen=True, slots=True)
class Rle:
    """A mask in COCO's compressed run lengths."""

    counts: str
    size: tuple[int, int]  # height, width [px]

    @classmethod
    def encode(cls, mask: npt.NDArray[np.bool_]) -> Rle:
        """Encode a mask. Shape: (H, W)."""
        return cls(encode_rle(mask), (mask.shape[0], mask.shape[1]))

    def decode(self) -> npt.NDArray[np.bool_]:
        """Decode to pixels. Shape: (H, W)."""
        return decode_rle(self.counts, *self.size)


@dataclass(frozen=True, slots=True)
class MaskRegion:
    """A noun and its mask or box."""

    noun: str
    rle: Rle | None  # None: the noun is known to be in the box, its mask is not
    score: float  # of the box, 0..1; the best one where boxes of the noun were joined
    box: tuple[float, float, float, float]  # left, top, right, bottom [px] of the photo


@dataclass(frozen=True, slots=True)
class PhotoMasks:
    """The record of one photo."""

    image: str  # path relative to the photo folder, POSIX
    height: int  # [px] upright, as `ovsdino_runtime.base.photo.load_photo` gives it
    width: int  # [px]
    source: str  # what made the masks, such as "grounding-dino+sam"
    regions: tuple[MaskRegion, ...]
    exclusive: bool  # the masks partition the photo: every other word of `closed` is false inside a mask
    closed: tuple[str, ...]  # words surely absent outside their own regions, save where `ignore` is
    ignore: Rle | None  # pixels of which nothing is said
    absent: tuple[str, ...] = ()  # further words of the captions: never use them as negatives here


@dataclass(frozen=True, slots=True)
class SkippedPhoto:
    """A photo without masks, and the reason."""

    image: str
    reason: str


Record = PhotoMasks | SkippedPhoto


def to_json(record: Record) -> dict[str, Any]:
    """Convert a record to JSON values."""
    if isinstance(record, SkippedPhoto):
        return {"image": record.image, "skipped": record.reason}
    return asdict(record)


def from_json(raw: dict[str, Any]) -> Record:
    """Convert JSON values back to the record.

    Raises:
        KeyError, TypeError, ValueError: the values are not a record.
    """
    if "skipped" in raw:
        return SkippedPhoto(raw["image"], raw["skipped"])

    def rle(encoded: dict[str, Any] | None) -> Rle | None:
        return None if encoded is None else Rle(encoded["counts"], (encoded["size"][0], encoded["size"][1]))

    regions = tuple(MaskRegion(**{**r, "rle": rle(r["rle"]), "box": tuple(r["box"])}) for r in raw["regions"])
    words = {"closed": tuple(raw["closed"]), "absent": tuple(raw["absent"])}
    return PhotoMasks(**{**raw, **words, "regions": regions, "ignore": rle(raw["ignore"])})
