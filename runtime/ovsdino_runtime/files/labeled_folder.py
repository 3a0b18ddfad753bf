"""Folders of labelled photos: ``images/``, ``labels/*.png`` and ``names.txt``, checked before use."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.decoded_photo import DecodedPhoto
from ovsdino_runtime.base.errors import OvsdinoError, PhotoError
from ovsdino_runtime.base.photo import decode_photo, photo_errors
from ovsdino_runtime.base.photo_files import photo_size
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.png_depth import GREY, read_png_header
from ovsdino_runtime.base.suffixes import is_photo, is_system_file
from ovsdino_runtime.geometry.metrics import IGNORED
from ovsdino_runtime.geometry.types import Photo, Truth
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.vocabulary import Vocabulary

IMAGES, LABELS, NAMES = "images", "labels", "names.txt"
LAYOUT = f"expected {IMAGES}/, {LABELS}/*.png (indexed or grey) and {NAMES} (one class a line)"
NOTHING = 255  # label that means nothing
UNKNOWN = -2
Values = Mapping[int, int]  # value in a label file -> class, or IGNORED


class DataError(OvsdinoError):
    """A folder of labelled photos is missing, incomplete, or has another layout."""


class LabelError(OvsdinoError):
    """A label file is broken, has another format, or contains values without a meaning."""


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos, their label files, and the meaning of label values."""

    name: str
    pairs: tuple[tuple[Path, Path], ...]  # photo, labels
    vocabulary: Vocabulary
    values: Values
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Photo, Truth]:
        """Read a photo and its labels: (H, W, 3) RGB, and (H, W), each a class or IGNORED.

        Raises:
            OvsdinoError: a file was changed since the folder was opened.
        """
        photo, labels = self.pairs[index]
        decoded = decode_photo(photo, options=self.photo_options)
        decoded.warn(str(photo))
        return decoded.photo, known_truth(to_classes(read_labels(labels), self.values, str(labels)), decoded)


def open_labelled(
    folder: Path,
    vocabulary: Vocabulary | None = None,
    values: Values | None = None,
    *,
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
) -> LabelledPhotos:
    """Open a folder of labelled photos and check every label file now, not hours later.

    Args:
        folder: contains ``images/``, and in ``labels/`` an indexed or grey PNG for each photo.
        vocabulary: the classes; None reads ``names.txt`` in the folder, see `read_names`.
        values: class of each label value; None: values are classes, and 255 is ignored.
        photo_options: what the photos' files do not say about their pixels.

    Raises:
        DataError: a file or folder is missing, or does not match.
        LabelError: a label file is broken, or contains a value without a meaning.
        ClassesError: the names are not valid classes.
    """
    require_folder(folder)
    vocabulary = vocabulary or read_names(folder / NAMES)
    values = plain(len(vocabulary.names)) if values is None else values
    labels = label_files(folder / LABELS)
    photos = photos_by_stem(folder / IMAGES, wanted={file.stem for file in labels})
    if not labels:
        raise DataError(f"{folder}: no {LABELS}/*.png in it; {LAYOUT}")
    if missing := [file for file in labels if file.stem not in photos]:
        raise DataError(
            f"{folder}: {len(missing)} of {len(labels)} photos are missing, the first is that of "
            f"{missing[0].name}; give each label file a photo of the same name in {IMAGES}/"
        )
    pairs = tuple((photos[file.stem], file) for file in labels)
    labelled = LabelledPhotos(
        name=folder.resolve().name,
        pairs=pairs,
        vocabulary=vocabulary,
        values=values,
        photo_options=photo_options,
    )
    for photo, file in labelled.pairs:
        height, width = to_classes(read_labels(file), values, str(file)).shape
        require_same_size(photo, photo_size(photo), (width, height))
    return labelled


def known_truth(truth: Truth, decoded: DecodedPhoto) -> Truth:
    """Ignore the labels of pixels that hold no data. Shape: (H, W) -> (H, W)."""
    if decoded.valid is None or decoded.valid.shape != truth.shape:
        return truth
    return np.where(decoded.valid, truth, IGNORED).astype(truth.dtype)


def require_folder(folder: Path) -> None:
    """Check that a folder exists.

    Raises:
        DataError: there is no such folder, or it is a file.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give the data set's folder"
        )


def read_names(file: Path) -> Vocabulary:
    """Read class names, one per line in label order; a first line ``background`` names label 0.

    Raises:
        DataError: there is no such file.
        ClassesError: the names are not valid classes.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; write one class a line, in the order of the labels")
    return replace(read_classes(f"@{file}"), name=file.stem)


def label_files(folder: Path) -> list[Path]:
    """List the PNGs of a folder, sorted, including ``.PNG``.

    Raises:
        DataError: two names differ only in the case of their suffix.
    """
    by_stem = {path.stem: path for path in _files(folder) if path.suffix.lower() == ".png"}
    for path in _files(folder):
        if path.suffix.lower() == ".png" and by_stem[path.stem] != path:
            raise DataError(f"{path} and {by_stem[path.stem].name}: two label files of one photo; remove one")
    return list(by_stem.values())


def photos_by_stem(folder: Path, wanted: Set[str] | None = None) -> dict[str, Path]:
    """Map names without suffix to the photos of a folder.

    Args:
        folder: the folder; subfolders are not searched.
        wanted: names to return; None returns all.

    Raises:
        DataError: two photos have the same name without suffix.
    """
    photos: dict[str, Path] = {}
    for path in _files(folder):
        if not is_photo(path) or (wanted is not None and path.stem not in wanted):
            continue
        if other := photos.get(path.stem):
            raise DataError(f"{path} and {other.name}: two photos of one name; keep the one that is labelled")
        photos[path.stem] = path
    return photos


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file() and not is_system_file(path))


def require_same_size(photo: Path, size: tuple[int, int], labels: tuple[int, int]) -> None:
    """Check that labels have the size of their photo; sizes are width and height [px].

    Raises:
        DataError: the sizes differ.
    """
    if size != labels:
        raise DataError(
            f"{photo} is {size[0]}x{size[1]} px, its labels are {labels[0]}x{labels[1]} px; "
            "they must have the same size"
        )


def read_labels(file: Path) -> npt.NDArray[np.int32]:
    """Read the raw values of an indexed or grey PNG: (H, W).

    Raises:
        LabelError: the file is broken, has another format, or is grey with 1 bit, where white may mean label
            1 or 255.
    """
    from PIL import Image

    try:
        with photo_errors():
            header = read_png_header(file)
            with Image.open(file) as image:
                raw = np.asarray(image)
    except PhotoError as error:
        raise LabelError(f"{file}: broken label file ({error}); get it again") from error
    if raw.dtype == np.bool_:
        raise LabelError(
            f"{file}: a PNG of 1 bit: whether white is label 1 or 255 cannot be known; write it with 8 bits"
        )
    if raw.ndim != 2 or raw.dtype.kind not in "iu" or raw.min() < 0:
        raise LabelError(
            f"{file}: a picture of shape {raw.shape}, {raw.dtype}: expected an indexed or grey PNG "
            "whose values are the labels; convert colours to labels first"
        )
    if header is not None and header in ((2, GREY), (4, GREY)):
        raw = raw // (255 // ((1 << header[0]) - 1))  # Pillow stretches grey of 2 and 4 bits to 0..255
    return raw.astype(np.int32)


def plain(count: int, *, ignore: int = NOTHING) -> Values:
    """Map values to classes: class = value, with one ignored value."""
    return {value: value for value in range(count)} | {ignore: IGNORED}


def reduced(count: int, *, ignore: int = NOTHING) -> Values:
    """Map values to classes: class = value - 1; 0 is ignored. This is mmseg's ``reduce_zero_label``."""
    return {value + 1: value for value in range(count)} | {0: IGNORED, ignore: IGNORED}


def to_classes(raw: npt.NDArray[Any], values: Values, where: str) -> Truth:
    """Convert raw label values to classes.

    Args:
        raw: values of the file, integers >= 0.
        values: class or IGNORED of each raw value.
        where: name of the file, for messages.

    Shape: (H, W) -> (H, W).

    Raises:
        LabelError: a value has no meaning; the message lists the first such values.
    """
    table = np.full(max(int(raw.max()), *values) + 1, UNKNOWN, np.int32)
    table[list(values)] = list(values.values())
    truth: Truth = table[raw]
    if (unknown := np.unique(raw[truth == UNKNOWN])).size:
        known = sorted(value for value, label in values.items() if label != IGNORED)
        ignored = ", ".join(str(value) for value, label in sorted(values.items()) if label == IGNORED)
        raise LabelError(
            f"{where}: label {', '.join(map(str, unknown[:3]))} is out of range: the {len(known)} classes "
            f"have labels {known[0]} to {known[-1]}, and {ignored or 'none'} means nothing; choose other "
            "names (`ovsdino evaluate` also takes --ignore)"
        )
    return truth
