"""Segment rasters larger than memory: read, segment and write them tile by tile.

Memory depends on the size of a tile, not of the raster.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovsdino_runtime.base.atomic import partial_file, write_text
from ovsdino_runtime.base.errors import OutputError, OvsdinoError
from ovsdino_runtime.base.overlay import palette
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.segmentation import Segmentation, no_data_label
from ovsdino_runtime.base.version import version
from ovsdino_runtime.files.output import Kind
from ovsdino_runtime.files.raster_overview import RasterOverview
from ovsdino_runtime.files.raster_reader import RasterReader, open_raster
from ovsdino_runtime.files.raster_vectors import save_raster_vectors
from ovsdino_runtime.geometry.raster_tiles import RasterTile, TilePlan
from ovsdino_runtime.geometry.types import Labels, Photo

LabelsFile = Any  # rasterio's DatasetWriter; the library has no types
ENDS: Mapping[Kind, str] = {
    "labels": "_labels.tif",
    "json": ".json",
    "geojson": ".geojson",
    "gpkg": ".gpkg",
    "overlay": "_overlay.png",
}


class StoppedError(OvsdinoError):
    """The run was stopped before the raster was complete."""


@dataclass(frozen=True, kw_only=True)
class RasterJob:
    """A raster to segment, and the results to write.

    Args:
        path: the raster.
        stem: file name of the results, without suffix.
        classes: names of the labels; "background" first, if there is one.
        background: the threshold below which a pixel is background; None: every pixel has a class.
        kinds: kinds of results to write; the labels are always written.
        photo_options: how to read pixels that the file does not describe.
        tiles: how the raster is cut into tiles.
    """

    path: Path
    stem: Path
    classes: tuple[str, ...]
    background: float | None
    kinds: Sequence[Kind]
    tiles: TilePlan
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS

    def file(self, kind: Kind) -> Path:
        """Return the file of a result."""
        return self.stem.with_name(self.stem.name + ENDS[kind])


@dataclass
class RasterResult:
    """Counts and confidences of a segmented raster."""

    size: tuple[int, int]  # height and width [px]
    pixels: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]"  # pixels of each label
    scores: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"  # sum of the confidences of each label
    missing: int = 0  # pixels without data
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, segmentation: Segmentation, labels: Labels, core: tuple[slice, slice]) -> None:
        """Count the labels of a tile's core."""
        known = labels < len(self.pixels)
        counts = np.bincount(labels[known], minlength=len(self.pixels))
        self.pixels += counts
        self.missing += labels.size - int(counts.sum())
        if segmentation.scores is not None:
            weights = segmentation.scores[core][known].astype(np.float64)
            self.scores += np.bincount(labels[known], weights, minlength=len(self.pixels))

    def regions(self, classes: Sequence[str]) -> list[dict[str, object]]:
        """Describe the classes, largest first, in the format of a photo's JSON."""
        total = max(int(self.pixels.sum()), 1)
        return [
            {
                "label": label,
                "name": classes[label],
                "pixels": int(self.pixels[label]),
                "coverage": round(float(self.pixels[label]) / total, 6),
                "score": (
                    round(float(self.scores[label] / self.pixels[label]), 4) if self.pixels[label] else None
                ),
            }
            for label in np.argsort(-self.pixels, kind="stable").tolist()
        ]


def label_raster(
    job: RasterJob,
    segment: Callable[[Photo], Segmentation],
    *,
    about: Mapping[str, object],
    done: Callable[[int, int], None] = lambda *_: None,
    stop: threading.Event | None = None,
) -> RasterResult:
    """Segment a raster into a label raster with the same position, size and coordinate system.

    The label raster is a tiled, compressed GeoTIFF in which 255 (65535 beyond 255 classes) means no data. It
    appears when it is complete.

    Args:
        job: the raster and its results.
        segment: segments a tile, a photo of ``job.tiles.side`` pixels a side.
        about: further fields of the JSON, such as the model.
        done: called with the number of finished tiles and of all tiles.
        stop: set it to stop; then nothing is written.

    Raises:
        PhotoError: the raster cannot be read, or rasterio is not installed.
        OutputError: a result cannot be written.
        StoppedError: ``stop`` was set.
    """
    stop = stop or threading.Event()
    began = time.monotonic()
    with open_raster(job.path, job.photo_options) as reader, _labels_file(job, reader) as target:
        names = len(job.classes)
        result = RasterResult(reader.size, np.zeros(names, np.int64), np.zeros(names))
        result.notes += reader.notes
        overview = _overview(job, reader)
        count = job.tiles.count(*reader.size)
        for number, tile in enumerate(job.tiles.tiles(*reader.size)):
            if stop.is_set():
                raise StoppedError(
                    f"{job.path}: stopped after {number} of {count} tiles; nothing was written"
                )
            labels = _label_tile(reader, tile, job=job, segment=segment, result=result, overview=overview)
            core = tile.core
            place = (core.top, core.top + core.height), (core.left, core.left + core.width)
            target.write(labels, 1, window=place)
            done(number + 1, count)
    result.files.append(job.file("labels"))
    if result.missing:
        result.notes.append(f"{result.missing} pixels hold no data: their label is {no_data_label(names)}")
    result.seconds = time.monotonic() - began
    if overview is not None:
        overview.save(job.file("overlay"))
        result.files.append(job.file("overlay"))
    for kind in ("geojson", "gpkg"):
        if kind in job.kinds:
            note = save_raster_vectors(job.file("labels"), job.file(kind), job.classes, kind=kind)
            if note is None:
                result.files.append(job.file(kind))
            else:
                result.notes.append(note)
    if unwritten := [kind for kind in job.kinds if kind not in ENDS]:
        result.notes.append(f"too large for {', '.join(unwritten)}: not written")
    if "json" in job.kinds:
        _write_json(job, result, about)
        result.files.append(job.file("json"))
    return result


def _label_tile(
    reader: RasterReader,
    tile: RasterTile,
    *,
    job: RasterJob,
    segment: Callable[[Photo], Segmentation],
    result: RasterResult,
    overview: RasterOverview | None,
) -> Labels:
    """Read and segment a tile, and count its core. Shape: (h, w) of the core."""
    decoded = reader.read(tile.read)
    height, width = decoded.photo.shape[:2]
    top, left = tile.core.top - tile.read.top, tile.core.left - tile.read.left
    core = slice(top, top + tile.core.height), slice(left, left + tile.core.width)
    nothing = no_data_label(len(job.classes))
    kind = np.uint8 if nothing == 255 else np.uint16
    if decoded.valid is not None and not decoded.valid[core].any():
        result.missing += tile.core.height * tile.core.width
        if overview is not None:
            overview.add(
                tile.core, decoded.photo[core], np.full(decoded.valid[core].shape, nothing, np.uint16)
            )
        return np.full((tile.core.height, tile.core.width), nothing, kind)
    side = job.tiles.side
    padding = (0, side - height), (0, side - width), (0, 0)  # padded by mirroring at the raster's end
    segmentation = segment(np.pad(decoded.photo, padding, mode="symmetric"))
    labels = segmentation.labels[core]
    if decoded.valid is not None:
        labels = np.where(decoded.valid[core], labels, nothing)
    result.add(segmentation, labels, core)
    if overview is not None:
        overview.add(tile.core, decoded.photo[core], labels)
    return labels.astype(kind)


def _overview(job: RasterJob, reader: RasterReader) -> RasterOverview | None:
    if "overlay" not in job.kinds:
        return None
    return RasterOverview(*reader.size, classes=job.classes, background=job.background)


@contextmanager
def _labels_file(job: RasterJob, reader: RasterReader) -> Iterator[LabelsFile]:
    """Open a new label raster; it gets its final name if the block ends without an error."""
    import rasterio

    nothing = no_data_label(len(job.classes))
    block = job.tiles.block
    profile = {
        "driver": "GTiff",
        "height": reader.size[0],
        "width": reader.size[1],
        "count": 1,
        "dtype": "uint8" if nothing == 255 else "uint16",
        "crs": reader.raster.crs,
        "transform": reader.raster.transform,
        "nodata": nothing,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    path = job.file("labels")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as partial, rasterio.open(partial, "w", **profile) as target:
            target.update_tags(TIFFTAG_SOFTWARE=f"ovsdino {version()}")
            target.update_tags(1, classes=json.dumps(job.classes, ensure_ascii=False))
            if nothing == 255:
                colours = palette(len(job.classes), background=job.background is not None).tolist()
                target.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(colours)})
            yield target
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_json(job: RasterJob, result: RasterResult, about: Mapping[str, object]) -> None:
    height, width = result.size
    record = {
        "photo": job.path.name,
        "height": height,
        "width": width,
        **about,
        "classes": job.classes,
        "background": job.background,
        "regions": result.regions(job.classes),
        "notes": result.notes,
        "tile_side": job.tiles.side,
        "seconds": round(result.seconds, 1),
    }
    try:
        write_text(job.file("json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise OutputError(f"{job.file('json')}: cannot be written: {error.strerror}") from error
