"""Read photos as people have them: turned by EXIF, grey, indexed, transparent, for print, in 16 bits."""

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ovsdino_runtime.base.errors import NotAPhotoError, PhotoError, TooLargeError
from ovsdino_runtime.geometry.types import Photo

if TYPE_CHECKING:
    from PIL.Image import Image

EXIF_ORIENTATION = 0x0112
# What Pillow's decoders raise on a broken file, besides OSError and SyntaxError.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)


def load_photo(path: str | Path) -> Photo:
    """Decode a photo, upright and without transparency (white shines through).

    Args:
        path: a file in any format that Pillow reads; of an animation, the first picture.

    Shape: (H, W, 3) RGB.

    Raises:
        PhotoError: there is no such file, it is broken or truncated, or too large to be a photo.
    """
    path = Path(path)
    if not path.is_file():
        raise PhotoError(f"{path}: {'a directory, expected a photo' if path.is_dir() else 'no such file'}")
    try:
        return read_photo(path)
    except PhotoError as error:
        raise type(error)(f"{path}: {error}") from error


def read_photo(
    file: Path | BinaryIO, *, formats: tuple[str, ...] | None = None, max_pixels: int | None = None
) -> Photo:
    """Decode a photo that may come from a stranger: its format and size are looked at before it is decoded.

    Args:
        file: a file that exists, or one that is open.
        formats: Pillow's names of those that are welcome; None takes all.
        most_pixels: larger photos are refused; None takes what Pillow takes.

    Shape: (H, W, 3) RGB.

    Raises:
        NotAPhotoError: of none of the formats.
        TooLargeError: it has too many pixels.
        PhotoError: broken or truncated.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large photo and odd metadata are no reason to complain
            with Image.open(file, formats=formats) as image:
                _check_size(image.size, max_pixels)
                image.load()
                return decode_image(image)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise TooLargeError(f"more than {limit} megapixels; scale the photo down first") from error
    except UnidentifiedImageError as error:
        raise NotAPhotoError("not a photo, or of a format that Pillow cannot read") from error
    except BROKEN as error:
        raise PhotoError(f"broken photo: {' '.join(str(error).split())}") from error


def _check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise TooLargeError(
            f"{width}x{height} px: expected at most {max_pixels / 1e6:g} megapixels; "
            "scale the photo down first"
        )


def to_photo(image: "str | Path | np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | Image") -> Photo:
    """Accept a photo in the forms in which callers have it: a path, an array or a Pillow image.

    Shape: an array is (H, W, 3) RGB or (H, W) grey, uint8 -> (H, W, 3).

    Raises:
        PhotoError: the file cannot be read, or the array has another shape or type.
    """
    if isinstance(image, str | Path):
        return load_photo(image)
    if not isinstance(image, np.ndarray):
        return decode_image(image)
    if image.dtype == np.uint8 and image.ndim == 2 and image.size:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    raise PhotoError(
        f"the array is {image.dtype} with shape {image.shape}: expected uint8, (height, width, 3) in RGB "
        "or (height, width) in grey"
    )


def decode_image(image: "Image") -> Photo:
    """Turn a Pillow image upright and bring any mode to 8-bit RGB.

    Shape: (H, W, 3).

    Raises:
        PhotoError: the pixels are of a kind without a natural range, such as 32-bit floats.
    """
    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_wide_grey(image)
    if image.has_transparency_data:
        from PIL import Image as PillowImage

        page = PillowImage.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    if image.mode == "LAB":
        raise PhotoError("colours are LAB: expected RGB, grey or CMYK; convert the photo first")
    return np.asarray(image.convert("RGB"))


def _upright(image: "Image") -> "Image":
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except BROKEN:  # damaged metadata: the pixels are still good
        return image
    return image.transpose(turns[orientation]) if orientation in turns else image


def _from_wide_grey(image: "Image") -> Photo:
    """Keep the upper 8 of 16 bits, where Pillow's conversion clips; before Pillow 11 a 16-bit PNG is "I"."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise PhotoError(f"pixels are {values.dtype} in {low}..{high}: expected 8 or 16 bits a colour")
    grey = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
