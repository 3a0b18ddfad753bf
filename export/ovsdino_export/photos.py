"""The photos on which exported graphs are compared with the torch model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.base.photo_files import find_photos
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.geometry.preprocess import Preprocessing as Rules
from ovsdino_runtime.geometry.preprocess import fit_size, normalise, resize_photo
from ovsdino_runtime.geometry.types import Photo

MOST = 8  # a ViT-B takes a second and more for each, three times over
LONGEST = 1 << 20  # [px] no limit: a window is cut from the middle anyway
REPOSITORY = (
    Path(__file__).resolve().parents[2]
)  # in a checkout; elsewhere just a folder without our setup.cfg


@dataclass(frozen=True)
class TestPhotos:
    """Square photos and their source."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    photos: tuple[Photo, ...]  # (S, S, 3) RGB each
    source: str

    def pixels(self, rules: Rules) -> npt.NDArray[np.float32]:
        """Normalise as the runtime does: (n, 3, S, S)."""
        return np.stack([normalise(photo, rules).transpose(2, 0, 1) for photo in self.photos])


def gather_photos(
    folder: Path | None, size: int, *, options: PhotoOptions = DEFAULT_PHOTO_OPTIONS
) -> TestPhotos:
    """Collect photos from a folder, else from the examples of a clone, else synthetic ones.

    Args:
        folder: folder of photos; up to eight are taken, evenly spaced in the sorted names.
        size: side of the squares, cut from the middle [px].
        options: what the files do not say about their pixels.

    Raises:
        PhotoError: the folder contains no photos, or one is broken.
    """
    if folder is None:
        examples = REPOSITORY / "examples"
        in_checkout = (REPOSITORY / "setup.cfg").is_file() and examples.is_dir()
        if not in_checkout:
            return TestPhotos(tuple(paint(seed, size) for seed in range(MOST)), "painted textures")
        folder = examples
    files = find_photos(folder)
    step = max(1, len(files) / MOST)
    chosen = [files[int(i * step)] for i in range(min(MOST, len(files)))]
    squares = tuple(middle(load_photo(file, options=options), size) for file in chosen)
    return TestPhotos(squares, f"{len(chosen)} photos of {folder.name}")


def middle(photo: Photo, size: int) -> Photo:
    """Scale a photo until its short side fits, and cut the middle: (H, W, 3) -> (size, size, 3)."""
    height, width = fit_size(*photo.shape[:2], short_side=size, long_side=LONGEST)
    scaled = resize_photo(photo, height, width, antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    return scaled[top : top + size, left : left + size]


def paint(seed: int, size: int) -> Photo:
    """Paint coloured noise of many scales and a few plain shapes. The result depends on the seed only.

    Shape: (size, size, 3) RGB.
    """
    from PIL import Image

    random = np.random.default_rng(seed)
    canvas = np.zeros((size, size, 3))
    for scale in (2, 4, 8, 16, 32, 64, 128):
        cells = random.integers(0, 256, (scale, scale, 3), dtype=np.uint8)
        layer = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
        canvas += np.asarray(layer, dtype=np.float64) / scale**0.5
    canvas = 255 * (canvas - canvas.min()) / np.ptp(canvas)
    rows, columns = np.mgrid[:size, :size]
    for _ in range(4):
        row, column = random.integers(0, size, 2)
        radius = random.integers(size // 16, size // 4)
        canvas[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = random.integers(0, 256, 3)
    painted: Photo = canvas.astype(np.uint8)
    return painted
