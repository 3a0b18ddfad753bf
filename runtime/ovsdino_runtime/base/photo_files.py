"""Find photo files in a folder, and read their sizes from their headers."""

from pathlib import Path

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.orientation import image_orientation, upright_size
from ovsdino_runtime.base.photo import photo_errors, register_formats
from ovsdino_runtime.base.suffixes import PHOTO_SUFFIXES, is_photo, without_results
from ovsdino_runtime.base.tiff_layout import read_tiff_layout


def find_photos(folder: Path) -> list[Path]:
    """List the photos in a folder and its subfolders, sorted, without our own results.

    Raises:
        PhotoError: the folder does not exist, or holds no photos.
    """
    if not folder.is_dir():
        raise PhotoError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give one of photos"
        )
    files = sorted(path for path in folder.rglob("*") if is_photo(path) and path.is_file())
    photos = without_results(files)
    if not photos:
        raise PhotoError(f"{folder}: no photos in it (looked for {', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos


def photo_size(photo: Path) -> tuple[int, int]:
    """Read the width and height [px] of a photo, upright, from its header.

    Raises:
        PhotoError: the file cannot be read.
    """
    try:
        with photo_errors():
            return _read_size(photo)
    except PhotoError as error:
        raise type(error)(f"{photo}: {error}") from error


def _read_size(photo: Path) -> tuple[int, int]:
    from PIL import Image

    layout = read_tiff_layout(photo)
    if layout is not None:
        return layout.size
    register_formats(photo)
    with Image.open(photo) as image:
        return upright_size(*image.size, image_orientation(image))
