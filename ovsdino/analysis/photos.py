"""Read a folder of photos as batches of squares, one batch ahead of the encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.base.photo_files import find_photos
from ovsdino_runtime.geometry.types import Photo


def choose_photos(folder: Path, limit: int | None = None) -> list[Path]:
    """List the photos below a folder, sorted; with a limit, that many evenly spaced photos.

    Raises:
        PhotoError: there is no such folder, or it contains no photos.
    """
    photos = find_photos(folder)
    if limit is None or limit >= len(photos):
        return photos
    return [photos[index * len(photos) // limit] for index in range(limit)]


def centre_square(photo: Photo) -> Photo:
    """Cut the largest centred square, so that all encoders see the same scene: (H, W, 3) -> (S, S, 3)."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photo[top : top + side, left : left + side]


def read_squares(photos: Sequence[Path], *, batch: int, warn: Callable[[str], None]) -> Iterator[list[Photo]]:
    """Decode photos in batches, one batch ahead of the caller. Broken photos are reported and skipped.

    Args:
        photos: paths of the photos.
        batch: number of photos per batch.
        warn: called with a message for each photo that cannot be read.

    Yields:
        Squares of up to ``batch`` photos; an empty list if none of them can be read.
    """

    def read_one(file: Path) -> list[Photo]:
        try:
            return [centre_square(load_photo(file))]
        except PhotoError as error:
            warn(f"{error}; left out")
            return []

    def read(files: Sequence[Path]) -> list[Photo]:
        return [square for file in files for square in read_one(file)]

    chunks = [photos[start : start + batch] for start in range(0, len(photos), batch)]
    if not chunks:
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, chunks[0])
        for chunk in chunks[1:]:
            squares, ahead = ahead.result(), pool.submit(read, chunk)
            yield squares
        yield ahead.result()
