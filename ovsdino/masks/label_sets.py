"""A source of masks from several labelled sets, each with its own names and meaning of background.

A set is a folder with ``images/``, ``labels/*.png`` and ``names.txt`` (line n, from 0, names label n). A JSON
file describes how the sets are combined (:class:`SetsFile`). Finished masks of photos in other folders can be
added; all become shards of one folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovsdino.masks.errors import MaskError
from ovsdino.masks.label_files import BACKGROUND, LabelNames, Meaning, label_masks, read_names
from ovsdino.masks.make import MaskJob
from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.options import SYNONYMS, WIDER, spread
from ovsdino.masks.store.shards import MaskReader, PhotoMasks
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.files.labeled_folder import (
    IMAGES,
    LABELS,
    NAMES,
    photos_by_stem,
    read_labels,
    require_same_size,
)
from ovsdino_runtime.geometry.types import Photo

if TYPE_CHECKING:
    from ovsdino.masks.options import MaskOptions

NAME = "sets"
PARTS, DISTRACTORS = "parts.json", "distractors.json"  # read by ovsdino.training


@dataclass(frozen=True)
class LabelSet:
    """The meaning of a set's label ``background``.

    - ``none``: the set has no such label.
    - ``absent``: none of the set's names; for sets in which all objects with these names were labelled.
    - ``rest``: none of the names in this photo's labels; for sets in which only one object was labelled.
    - ``unknown``: nothing is known.

    It never implies anything about words that the set does not name.
    """

    background: Meaning


@dataclass(frozen=True)
class SetsFile:
    """How labelled sets are combined (``sets.json``)."""

    about: str
    sets: dict[str, LabelSet]  # folder -> how it is read
    nouns: dict[str, str | None]  # a set's name -> the noun that all sets share; None: nothing is known there
    names: dict[str, tuple[str, ...]]  # noun -> what it may be called
    parts: dict[str, tuple[str, ...]]  # noun -> nouns that are right at the same pixels: window -> building
    distractors: tuple[str, ...]  # words without a mask that photos of the sets show to be absent


@dataclass(frozen=True)
class LabelSets:
    """The labelled sets below a folder of photos, and finished masks to add."""

    photos: Path
    file: SetsFile
    names: Mapping[str, LabelNames]  # set -> what its labels mean
    joined: Mapping[str, Path] = field(default_factory=dict)  # folder of photos -> their finished masks

    @property
    def name(self) -> str:
        """The source's name."""
        return NAME

    def describe(self) -> dict[str, object]:
        """Return everything that the masks depend on."""
        parts = [asdict(self.file), {name: asdict(names) for name, names in self.names.items()}]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        joined = {name: MaskReader(folder).info.listing[:16] for name, folder in self.joined.items()}
        return {"sets": list(self.names), "names of the sets": digest, "joined": joined}

    def images(self) -> Iterator[str]:
        """List the photos that have labels or finished masks, as paths below the photo folder."""
        for folder, masks in self.joined.items():
            yield from (f"{folder}/{image}" for image in MaskReader(masks).images)
        for name in self.names:
            photos = photos_by_stem(self.photos / name / IMAGES)
            for file in sorted((self.photos / name / LABELS).glob("*.png")):
                if file.stem not in photos:
                    raise MaskError(f"{file}: no photo of this name in {self.photos / name / IMAGES}")
                yield f"{name}/{IMAGES}/{photos[file.stem].name}"

    def open(self) -> SetReader:
        """Return the source."""
        return SetReader(self)


class SetReader:
    """Read the label map or the finished masks of a photo.

    Args:
        options: the sets and the meaning of their labels.
    """

    def __init__(self, options: LabelSets) -> None:
        self.options = options
        self.joined = {folder: MaskReader(masks) for folder, masks in options.joined.items()}
        self.places = {
            folder: {image: number for number, image in enumerate(reader.images)}
            for folder, reader in self.joined.items()
        }

    def __call__(self, photo: Photo, task: PhotoNouns) -> PhotoMasks:
        """Return the masks of a photo. Shape: photo (H, W, 3).

        Raises:
            LabelError: a label map is broken, or a value has no name.
            DataError: the photo and its labels or masks have different sizes.
        """
        folder, rest = task.image.split("/", maxsplit=1)
        size = (photo.shape[1], photo.shape[0])
        if folder in self.joined:
            record = self.joined[folder][self.places[folder][rest]]
            require_same_size(Path(task.image), size, (record.width, record.height))
            return replace(record, image=task.image)
        file = self.options.photos / folder / LABELS / f"{Path(rest).stem}.png"
        raw = read_labels(file)  # (H, W)
        require_same_size(Path(task.image), size, (raw.shape[1], raw.shape[0]))
        return label_masks(task.image, raw, names=self.options.names[folder], where=str(file))


def set_job(request: MaskOptions) -> MaskJob:
    """Build the job of the photos of all sets; read the meaning of their labels.

    Raises:
        MaskError: a file or folder is missing or invalid.
    """
    if request.sets is None:
        raise MaskError("--source sets needs --sets FILE: which labelled folders, and what their labels mean")
    file = read_sets(request.sets)
    joined = dict(read_join(text, request.photos) for text in request.join)
    names = {name: set_names(request.photos / name, rule, file) for name, rule in file.sets.items()}
    if both := sorted(names.keys() & joined.keys()):
        raise MaskError(f"--join {both[0]}: {request.sets} names a set of this folder already")
    options = LabelSets(photos=request.photos.resolve(), file=file, names=names, joined=joined)
    synonyms: dict[str, Any] = {}
    wider: dict[str, Any] = {}
    for folder in joined.values():
        synonyms |= read_beside(folder / SYNONYMS)
        wider |= read_beside(folder / WIDER)
    nouns = [noun for known in names.values() for noun in known.classes]
    for noun in (*nouns, *file.distractors):
        synonyms.setdefault(noun, [noun])
    for noun, called in file.names.items():
        synonyms[noun] = list(dict.fromkeys([*synonyms.get(noun, [noun]), *called]))
    return MaskJob(
        out=request.out,
        photos=request.photos,
        tasks=tuple(
            PhotoNouns(image, (), ()) for image in spread(list(options.images()), request.max_photos)
        ),
        source=options,
        shard_size=request.shard_size,
        beside={SYNONYMS: synonyms, WIDER: wider, PARTS: file.parts, DISTRACTORS: file.distractors},
    )


def read_sets(path: Path) -> SetsFile:
    """Read ``sets.json``.

    Raises:
        MaskError: the file is missing or has another format.
    """
    try:
        return strict_json.parse(SetsFile, strict_json.loads(regular_file(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise MaskError(f"--sets {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise MaskError(f"--sets {path}: {error}") from error


def set_names(folder: Path, rule: LabelSet, file: SetsFile) -> LabelNames:
    """Read the meaning of a set's labels, in the nouns that all sets share.

    Raises:
        MaskError: the set is missing, or its names and its rule disagree about ``background``.
    """
    for part in (IMAGES, LABELS):
        if not (folder / part).is_dir():
            raise MaskError(f"{folder / part}: no such folder; a set has {IMAGES}/, {LABELS}/ and {NAMES}")
    names = read_names(folder / NAMES)
    if (BACKGROUND in names) == (rule.background == "none"):
        label = "a label" if BACKGROUND in names else "no label"
        raise MaskError(
            f"{folder / NAMES} has {label} called background, the sets' file says {rule.background!r}; "
            "write absent, rest or unknown where there is one, and none where there is none"
        )
    nouns = tuple(name if name == BACKGROUND else file.nouns.get(name, name) for name in names)
    return LabelNames(nouns, rule.background)


def read_join(text: str, photos: Path) -> tuple[str, Path]:
    """Parse ``FOLDER=MASKS``: finished masks for the photos of a folder below the photo folder.

    Raises:
        MaskError: the text has another form, or there is no such folder of photos.
    """
    folder, separator, masks = text.partition("=")
    if not separator or not folder or "/" in folder:
        raise MaskError(f"--join {text}: expected FOLDER=MASKS, such as pseudo=work/masks")
    if not (photos / folder).is_dir():
        raise MaskError(f"--join {text}: no folder {photos / folder}; put or link the masks' photos there")
    return folder, Path(masks).resolve()


def read_beside(path: Path) -> dict[str, Any]:
    """Read a JSON object beside finished masks; empty if there is no such file.

    Raises:
        MaskError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = strict_json.loads(regular_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaskError(f"{path}: damaged ({error}); make these masks again") from error
    if not isinstance(content, dict):
        raise MaskError(f"{path}: got {type(content).__name__}, expected an object; make these masks again")
    return content
