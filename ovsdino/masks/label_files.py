"""A source of true masks: the label maps of a data set such as COCO-Stuff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ovsdino.masks.errors import MaskError
from ovsdino.masks.make import MaskJob
from ovsdino.masks.nouns.captions import list_photos
from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import MaskRegion, PhotoMasks, Rle
from ovsdino.masks.teachers.label_regions import bounds
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.files.labeled_folder import NOTHING, read_labels, require_same_size, to_classes
from ovsdino_runtime.geometry.metrics import IGNORED
from ovsdino_runtime.geometry.types import Photo

if TYPE_CHECKING:
    from ovsdino.masks.options import MaskOptions

NAME = "labels"
UNUSED = "-"  # in the list of names: a value that no pixel should have; it is left out
BACKGROUND = "background"  # in the list of names: none of the others


Meaning = Literal["none", "absent", "rest", "unknown"]


@dataclass(frozen=True)
class LabelNames:
    """The meaning of the values in a set's label maps."""

    names: tuple[str | None, ...]  # of each value, from 0; None: nothing is known where it stands
    background: Meaning = "absent"  # what the name `background` says, see `ovsdino.masks.label_sets.LabelSet`

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct words of the set; several values may share a word."""
        return tuple(dict.fromkeys(n for n in self.names if n is not None and n not in (UNUSED, BACKGROUND)))

    @property
    def values(self) -> Mapping[int, int]:
        """Class of each value in a file; background maps to the number after the last class, or IGNORED."""
        classes = self.classes
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
        numbers |= {None: IGNORED, BACKGROUND: IGNORED if self.background == "unknown" else len(classes)}
        named = {value: numbers[name] for value, name in enumerate(self.names) if name != UNUSED}
        return named | {NOTHING: IGNORED}


@dataclass(frozen=True)
class LabelFiles:
    """The paths of the label maps, and the meaning of their values."""

    labels: Path  # a PNG for each photo, by its path below the photos
    names: LabelNames

    @property
    def name(self) -> str:
        """The source's name."""
        return NAME

    def file(self, image: str) -> Path:
        """Return the path of a photo's label map."""
        return (self.labels / image).with_suffix(".png")

    def describe(self) -> dict[str, object]:
        """Return everything that the masks depend on."""
        return {"names": list(self.names.names)}

    def open(self) -> LabelReader:
        """Return the source."""
        return LabelReader(self)


class LabelReader:
    """Convert the label map of a photo to masks, one per class.

    Args:
        options: the files and their values.
    """

    def __init__(self, options: LabelFiles) -> None:
        self.options = options

    def __call__(self, photo: Photo, task: PhotoNouns) -> PhotoMasks:
        """Read a label map. Shape: photo (H, W, 3).

        Raises:
            LabelError: the label map is broken, or a value has no name.
            DataError: the label map and its photo have different sizes.
        """
        file = self.options.file(task.image)
        raw = read_labels(file)  # (H, W)
        require_same_size(Path(task.image), (photo.shape[1], photo.shape[0]), (raw.shape[1], raw.shape[0]))
        return label_masks(task.image, raw, names=self.options.names, where=str(file))


def label_masks(image: str, raw: npt.NDArray[np.int32], *, names: LabelNames, where: str) -> PhotoMasks:
    """Convert a label map to exclusive masks.

    Args:
        image: path of the photo below the photo folder.
        raw: raw values of the file. Shape: (H, W).
        names: the meaning of the values.
        where: name of the file, for messages.

    Returns:
        One mask per class. At pixels that are neither masked nor ignored the classes of the set are absent;
        with ``background="rest"`` only those that occur in the photo.

    Raises:
        LabelError: a value has no name.
    """
    classes = names.classes
    labels = to_classes(raw, names.values, where)  # (H, W)
    regions = []
    for number, noun in enumerate(classes):
        mask = labels == number
        if mask.any():
            regions.append(MaskRegion(noun=noun, rle=Rle.encode(mask), score=1.0, box=bounds(mask)))
    unknown = labels == IGNORED
    return PhotoMasks(
        image=image,
        height=labels.shape[0],
        width=labels.shape[1],
        source=NAME,
        regions=tuple(regions),
        exclusive=True,
        closed=() if names.background == "rest" else classes,
        ignore=Rle.encode(unknown) if unknown.any() else None,
    )


def label_job(request: MaskOptions) -> MaskJob:
    """Build the job of all photos that have a label map.

    Raises:
        MaskError: a folder or the list of names is missing or wrong, or no photo has a label map.
    """
    from ovsdino.masks.options import SYNONYMS, spread

    if request.labels is None or request.names is None:
        raise MaskError("--source labels needs --labels DIR and --names FILE")
    if not request.labels.is_dir():
        raise MaskError(
            f"--labels {request.labels}: no such folder; give the label maps, a PNG for each photo"
        )
    options = LabelFiles(request.labels.resolve(), LabelNames(read_names(request.names)))
    images = [image for image in list_photos(request.photos) if options.file(image).is_file()]
    if not images:
        raise MaskError(
            f"{request.labels}: no label map of any photo in {request.photos}; cat.jpg needs cat.png"
        )
    return MaskJob(
        out=request.out,
        photos=request.photos,
        tasks=tuple(PhotoNouns(image, (), ()) for image in spread(images, request.max_photos)),
        source=options,
        shard_size=request.shard_size,
        beside={SYNONYMS: {name: [name] for name in options.names.classes}},  # training's words: all of them
    )


def read_names(file: Path) -> tuple[str, ...]:
    """Read the names of values from 0 on, one per line; ``-`` marks an unused value.

    Raises:
        MaskError: there is no such file, or a line is empty or occurs twice.
    """
    try:
        names = [
            line.strip() for line in regular_file(file).read_text(encoding="utf-8").rstrip().splitlines()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise MaskError(f"--names {file}: cannot be read ({error}); write one class a line") from error
    used = [name for name in names if name != UNUSED]
    wrong = sorted({name for name in used if not name or used.count(name) > 1})
    if wrong or not used:
        what = f"{wrong[0]!r} is empty or there twice" if wrong else "no name in it"
        raise MaskError(f"--names {file}: {what}; write one class a line, and - for a value that is not used")
    return tuple(names)
