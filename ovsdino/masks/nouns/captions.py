"""Read caption files in COCO's format and match them with a folder of photos."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ovsdino.masks.errors import MaskError
from ovsdino_runtime.base.photo_files import find_photos
from ovsdino_runtime.base.regular_file import regular_file


@dataclass(frozen=True, slots=True)
class CaptionedPhoto:
    """A photo and its captions."""

    image: str  # path relative to the photo folder, POSIX
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Captions:
    """The captioned photos of a folder, sorted by name, and mismatches between file and folder."""

    photos: tuple[CaptionedPhoto, ...]
    missing: tuple[str, ...]  # photos of the caption file that are not in the folder
    uncaptioned: int  # photos of the folder that the file has no caption for
    empty: int  # captions without a word


def list_photos(folder: Path) -> tuple[str, ...]:
    """List the photos below a folder, as sorted relative paths.

    Raises:
        PhotoError: there is no such folder, or there are no photos in it.
    """
    return tuple(sorted(path.relative_to(folder).as_posix() for path in find_photos(folder)))


def read_captions(file: Path, folder: Path) -> Captions:
    """Read a caption file and find its photos in a folder, by path or else by name.

    Raises:
        MaskError: the file is not a caption file, has no caption, or belongs to other photos.
    """
    by_name = _read_annotations(file)
    images = list_photos(folder)
    paths, names = set(images), defaultdict[str, list[str]](list)
    for image in images:
        names[Path(image).name].append(image)
    by_photo: dict[str, list[str]] = {}
    missing: list[str] = []
    for name, captions in by_name.items():
        alike = [name] if name in paths else names.get(Path(name).name, [])
        if len(alike) == 1:  # two photos of one name: nobody knows which is meant
            by_photo.setdefault(alike[0], []).extend(captions)
        else:
            missing.append(name)
    if not by_photo:
        raise MaskError(
            f"{file}: none of its {len(by_name)} photos is in {folder} (it names {next(iter(by_name))}, "
            f"the folder has {images[0]}); give the captions of these photos"
        )
    empty = sum(not caption.strip() for captions in by_photo.values() for caption in captions)
    photos = tuple(
        CaptionedPhoto(image, tuple(" ".join(c.split()) for c in by_photo[image] if c.strip()))
        for image in sorted(by_photo)
    )
    if not any(photo.captions for photo in photos):
        raise MaskError(f"{file}: all {empty} captions are empty; give a file with captions")
    return Captions(
        photos=photos, missing=tuple(missing), uncaptioned=len(images) - len(by_photo), empty=empty
    )


def _read_annotations(file: Path) -> dict[str, list[str]]:
    """Return the captions of each file name."""
    try:
        raw = json.loads(regular_file(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise MaskError(
            f"{file}: cannot be read ({error.strerror}); give captions in COCO's format"
        ) from error
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{file}: not JSON ({error}); give captions in COCO's format") from error
    expected = "expected COCO's captions, such as captions_train2017.json"
    try:
        names = {image["id"]: str(image["file_name"]) for image in raw["images"]}
        captions: dict[str, list[str]] = {name: [] for name in names.values()}
        for annotation in raw["annotations"]:
            if not isinstance(annotation["caption"], str):
                raise MaskError(f"{file}: a caption is {annotation['caption']!r}, expected text")
            captions[names[annotation["image_id"]]].append(annotation["caption"])
    except (KeyError, TypeError, AttributeError) as error:
        raise MaskError(f"{file}: {error.args[0]!r} is not where it should be; {expected}") from error
    if not any(captions.values()):
        raise MaskError(f"{file}: no caption in it; {expected}")
    return captions
