"""Label many photos into files: all that can be refused is refused before the first file is written."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovsdino_runtime.errors import OutputError, PhotoError
from ovsdino_runtime.output import SUFFIXES, Kind, save_json, save_labels, save_overlay
from ovsdino_runtime.segmentation import Segmentation
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.vocabulary import Vocabulary


@dataclass(frozen=True)
class Labelled:
    """What became of a photo: a result and its files, or an error."""

    photo: Path
    segmentation: Segmentation | None = None
    files: tuple[Path, ...] = ()
    error: PhotoError | None = None


def label_photos(
    segmenter: Segmenter,
    photos: Sequence[Path],
    vocabulary: Vocabulary,
    *,
    out: Path,
    kinds: Sequence[Kind] = ("overlay", "labels", "json"),
    background: float | None = None,
) -> Iterator[Labelled]:
    """Label photos one after the other; a photo that cannot be read does not stop the others.

    Args:
        segmenter: the model.
        photos: files; one that is given twice is labelled once.
        vocabulary: the classes.
        out: directory of the results; it is made with the first of them.
        kinds: what to write of each photo.
        background: see `Segmenter`.

    Yields:
        Each photo as it is done, in order.

    Raises:
        OutputError: a result cannot be written.
    """
    for photo, stem in name_results(photos).items():
        files = {kind: out / f"{stem}{SUFFIXES[kind]}" for kind in kinds}
        yield _label(segmenter, photo, vocabulary, files=files, background=background)


def _label(
    segmenter: Segmenter,
    photo: Path,
    vocabulary: Vocabulary,
    *,
    files: Mapping[Kind, Path],
    background: float | None,
) -> Labelled:
    try:
        segmentation = segmenter(photo, vocabulary, background=background)
    except PhotoError as error:
        return Labelled(photo, error=error)
    for kind, file in files.items():
        save(segmentation, kind, file, photo=photo)
    return Labelled(photo, segmentation, tuple(files.values()))


def save(segmentation: Segmentation, kind: Kind, file: Path, *, photo: Path) -> None:
    """Write one kind of result.

    Raises:
        OutputError: the file cannot be written.
    """
    if kind == "overlay":
        save_overlay(segmentation, file)
    elif kind == "labels":
        save_labels(segmentation, file)
    else:
        save_json(segmentation, file, photo=photo.name)


def name_results(photos: Sequence[Path]) -> dict[Path, str]:
    """Give each photo a stem for its results; photos of the same name are numbered: ``cat``, ``cat-2``."""
    stems: dict[Path, str] = {}
    taken: set[str] = set()
    for photo in photos:
        if photo in stems:
            continue
        stem, number = photo.stem, 1
        while stem.casefold() in taken:  # folded: some file systems take Cat.png and cat.png for the same
            number += 1
            stem = f"{photo.stem}-{number}"
        taken.add(stem.casefold())
        stems[photo] = stem
    return stems


def check_output(out: Path) -> None:
    """Refuse a directory that cannot be written to, and leave no trace.

    Raises:
        OutputError: it is a file, or closed to us.
    """
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"{out}: {existing} is not a directory; choose another --out")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"{out}: cannot be written to: {error.strerror}; choose another --out") from error


def check_photos(photos: Sequence[Path]) -> None:
    """Refuse photos none of which exist, before a model is loaded for them.

    Raises:
        PhotoError: no photo exists.
    """
    if missing := [photo for photo in photos if not photo.is_file()]:
        kind = "a directory, expected photos" if missing[0].is_dir() else "no such file"
        if len(missing) == len(photos):
            raise PhotoError(f"{missing[0]}: {kind}")
