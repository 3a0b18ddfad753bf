"""Files of photos: which ones are, and what their headers say."""

from pathlib import Path

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.photo import BROKEN, EXIF_ORIENTATION

PHOTO_SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TURNED = (5, 6, 7, 8)  # EXIF's orientations that swap the sides


def find_photos(folder: Path) -> list[Path]:
    """List the photos in a folder and below it, sorted.

    Raises:
        PhotoError: there is no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise PhotoError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give one of photos"
        )
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
    if not photos:
        raise PhotoError(f"{folder}: no photos in it (looked for {', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos


def photo_size(photo: Path) -> tuple[int, int]:
    """Read the width and height [px] of a photo, upright, from its header.

    Raises:
        PhotoError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(photo) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION) in TURNED
    except BROKEN as error:
        raise PhotoError(f"{photo}: not a readable picture ({error}); get it again") from error
    return (height, width) if turned else (width, height)
