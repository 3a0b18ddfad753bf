"""Write the files of all results. Invalid requests are rejected before the first file is written.

Modules of formats that are rarely asked for are imported when they are.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from ovsdino_runtime.base.errors import OutputError, PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.base.overlay import draw_frame
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.base.trace import NO_TRACE, Trace
from ovsdino_runtime.files.output import (
    SUFFIXES,
    Kind,
    describe_segmentation,
    rle_lines,
    save_geojson,
    save_json,
    save_labels,
    save_overlay,
    save_rle,
)
from ovsdino_runtime.stream import Result

if TYPE_CHECKING:
    from ovsdino_runtime.files.object_sets import CocoSet
    from ovsdino_runtime.files.video import VideoWriter

MOVING: dict[Kind, str] = {
    "overlay": "_overlay.mp4",
    "labels": "_labels",  # a folder
    "json": ".jsonl",
    "rle": "_rle.jsonl",
}
DIGITS = 6  # of a picture's number in a video


def check_results(
    sources: Sequence[Source], out: Path, kinds: Sequence[Kind], *, rasters: Collection[Source] = ()
) -> None:
    """Check that no result would overwrite a source.

    Args:
        sources: all of them.
        out: the folder of the results.
        kinds: what is written.
        rasters: those of the sources that are read by windows.

    Raises:
        OutputError: a result would overwrite a source; the message names it.
    """
    files = {Path(source.address).resolve() for source in sources if source.kind != "live"}
    for source, stem in name_results(sources).items():
        ends: Mapping[Kind, str] = SUFFIXES if source.kind == "photo" else MOVING
        if source in rasters:
            from ovsdino_runtime.files.rasters import ENDS

            ends = ENDS
        for kind in {*kinds, "labels"} if source in rasters else kinds:
            if kind in ends and (result := out / f"{stem}{ends[kind]}").resolve() in files:
                raise OutputError(f"{result} is a source, and would be overwritten; choose another --out")


class ResultFiles:
    """Write the requested files of each result. Pass `write` to `Stream` as ``consume``.

    Each photo has separate files. Pictures of a video or live source go into one overlay video, a folder of
    indexed PNGs, and files of JSON lines. Close it, or use it in a ``with`` statement.

    Args:
        sources: all sources of the stream; they decide the names of the files.
        out: the output folder; it is created with the first file.
        kinds: kinds of files to write. GeoJSON is written only for georeferenced photos.
        trace: records each write.
        stems: name of each source's files without suffix; None uses `name_results`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        out: Path,
        kinds: Sequence[Kind],
        *,
        trace: Trace = NO_TRACE,
        stems: Mapping[Source, str] | None = None,
    ) -> None:
        self._stems = stems or name_results(sources)
        self._out = out
        self._kinds = kinds
        self._trace = trace
        self._moving: _MovingFiles | None = None
        self._coco = _open_coco(out / "coco.json") if "coco" in kinds else None

    def __enter__(self) -> "ResultFiles":
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Complete the files."""
        self.close()

    def write(self, result: Result) -> Result:
        """Write the files of a result; return the result with their paths. An error has no files.

        Raises:
            OutputError: a file cannot be written.
        """
        segmentation, source = result.segmentation, result.frame.source
        if segmentation is None:
            return result
        with self._trace.span("write", source=source.name, picture=result.frame.index):
            if source.kind == "photo":
                try:
                    files, notes = self._write_photo(source, segmentation)
                    return replace(result, files=files, notes=(*result.notes, *notes))
                except PhotoError as error:
                    return replace(result, segmentation=None, error=error)
            if self._moving is None or self._moving.source != source:
                if self._moving is not None:
                    self._moving.close()
                stem = self._out / self._stems[source]
                self._moving = _MovingFiles(source, stem, kinds=self._kinds, rate=result.frame.rate)
            return replace(result, files=self._moving.write(result, segmentation))

    def close(self) -> None:
        """Complete the files of the current video, and the COCO file.

        Raises:
            OutputError: a file cannot be written.
        """
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.close()
        if self._coco is not None:
            self._coco.close()

    def _write_photo(
        self, source: Source, segmentation: Segmentation
    ) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Write the files of a photo; return their paths, and notes about files that were not written."""
        files: list[Path] = []
        notes: list[str] = []
        for kind in self._kinds:
            if kind == "geojson":
                from ovsdino_runtime.files.geojson import Georeference, read_georeference
                from ovsdino_runtime.files.raster_vectors import write_prj

                place = read_georeference(source.address)
                file = self._out / f"{self._stems[source]}{SUFFIXES[kind]}"
                if not isinstance(place, Georeference):
                    prj = file.with_suffix(".prj")
                    more = write_prj(source.address, prj) if place.has_system else ""
                    notes.append(f"no GeoJSON: {place.reason}{more}")
                    continue
                save_geojson(segmentation, file, place)
                files.append(file)
            elif kind == "gpkg":
                from ovsdino_runtime.files.raster_vectors import save_photo_geopackage

                file = self._out / f"{self._stems[source]}{SUFFIXES[kind]}"
                note = save_photo_geopackage(segmentation, source.address, file)
                if note is None:
                    files.append(file)
                else:
                    notes.append(note)
            else:
                files.append(self._write_kind(kind, source, segmentation))
        return tuple(files), tuple(notes)

    def _write_kind(self, kind: Kind, source: Source, segmentation: Segmentation) -> Path:
        photo, stem = Path(source.address), self._stems[source]
        name = source.path.name if stem == source.stem else source.name  # else names are not unique
        if self._coco is not None and kind == "coco":
            return self._coco.add(segmentation, name)
        if kind in ("yolo", "labelme", "voc"):
            return self._write_objects(kind, photo, segmentation=segmentation, stem=stem)
        file = self._out / f"{stem}{SUFFIXES[kind]}"
        if kind == "overlay":
            save_overlay(segmentation, file)
        elif kind == "labels":
            save_labels(segmentation, file)
        elif kind == "json":
            save_json(segmentation, file, photo=name)
        else:
            save_rle(segmentation, file, photo=name)
        return file

    def _write_objects(self, kind: Kind, photo: Path, *, segmentation: Segmentation, stem: str) -> Path:
        from ovsdino_runtime.files.object_sets import save_labelme, save_voc, save_yolo

        if kind == "yolo":
            return save_yolo(segmentation, self._out / kind, stem)
        save = save_labelme if kind == "labelme" else save_voc
        return save(segmentation, self._out / kind, stem, photo=photo)


class _MovingFiles:
    """Growing files of a video or live source; they are usable even if the run is interrupted."""

    def __init__(self, source: Source, stem: Path, kinds: Sequence[Kind], *, rate: float) -> None:
        self.source = source
        self._files = {kind: stem.with_name(stem.name + MOVING[kind]) for kind in kinds if kind in MOVING}
        self._start: float | None = None
        self._video: VideoWriter | None = None
        self._lines: dict[Kind, TextIO] = {}
        if file := self._files.get("overlay"):
            self._video = _open_video(file, rate)
        if folder := self._files.get("labels"):
            _remove_old_labels(folder)
        for kind in self._files.keys() & {"json", "rle"}:
            self._lines[kind] = _open_lines(self._files[kind])

    def write(self, result: Result, segmentation: Segmentation) -> tuple[Path, ...]:
        """Add a picture."""
        frame = result.frame
        name = f"{frame.index:0{DIGITS}}"
        if self._video:
            self._start = frame.time if self._start is None else self._start
            self._video.write(np.asarray(draw_frame(segmentation)), frame.time - self._start)
        if folder := self._files.get("labels"):
            save_labels(segmentation, folder / f"{name}.png")
        if file := self._lines.get("json"):
            record = describe_segmentation(segmentation, photo=name) | {"time_s": round(frame.time, 3)}
            _append(file, [json.dumps(record, ensure_ascii=False) + "\n"])
        if file := self._lines.get("rle"):
            _append(file, rle_lines(segmentation, photo=name))
        return tuple(self._files.values())

    def close(self) -> None:
        """Complete the files."""
        for file in self._lines.values():
            file.close()
        if self._video:
            self._video.close()


def _open_coco(path: Path) -> "CocoSet":
    from ovsdino_runtime.files.object_sets import CocoSet

    return CocoSet(path)


def _open_video(path: Path, rate: float) -> "VideoWriter":
    from ovsdino_runtime.files.video import VideoWriter

    return VideoWriter(path, rate=rate)


def _remove_old_labels(folder: Path) -> None:
    """Remove labels that an earlier run of a longer video left, so that they are not mixed with new ones."""
    try:
        for file in folder.glob("*.png"):
            if file.stem.isdecimal() and len(file.stem) >= DIGITS:
                file.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: old labels cannot be removed: {error.strerror}") from error


def _open_lines(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _append(file: TextIO, lines: list[str]) -> None:
    try:
        file.writelines(lines)
        file.flush()
    except OSError as error:
        raise OutputError(f"{file.name}: cannot be written: {error.strerror}") from error


def name_results(sources: Sequence[Source]) -> dict[Source, str]:
    """Choose the stem of each source's results; number equal names: ``cat``, ``cat-2``."""
    stems: dict[Source, str] = {}
    taken: set[str] = set()
    for source in sources:
        if source in stems:
            continue
        stem, number = source.stem, 1
        while stem.casefold() in taken:  # folded: some file systems take Cat.png and cat.png for the same
            number += 1
            stem = f"{source.stem}-{number}"
        taken.add(stem.casefold())
        stems[source] = stem
    return stems
