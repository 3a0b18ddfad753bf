"""The options of ``ovsdino pseudo-masks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

SYNONYMS, WIDER = "synonyms.json", "wider.json"  # read by training: ovsdino.training.data.synonyms
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """The options of ``ovsdino pseudo-masks``, by the same names."""

    photos: Path
    out: Path
    captions: Path | None
    source: str
    detector: str
    sam: Path
    box_threshold: float
    text_threshold: float
    nms_iou: float
    selection: Literal["noun", "script"]
    min_area: float
    min_captions: int
    nltk_data: Path | None
    wordnet: Path | None
    teachers: Path | None
    concepts: Path | None
    lvis: Path | None
    classifier: Path | None
    labels: Path | None
    names: Path | None
    sets: Path | None
    join: tuple[str, ...]
    max_photos: int | None
    shard_size: int
    sheet: int
    device: str | None
    ray: str | None
    workers: int


def spread(items: Sequence[Item], max_photos: int | None) -> tuple[Item, ...]:
    """Take evenly spaced items; None takes all."""
    if max_photos is None or max_photos >= len(items):
        return tuple(items)
    return tuple(items[int(place)] for place in np.linspace(0, len(items) - 1, max_photos))
