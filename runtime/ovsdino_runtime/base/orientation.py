"""Turn photos upright by their EXIF orientation.

Source: EXIF 2.32, tag 0x0112, the same as TIFF 6.0's tag 274.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112
SWAPS_SIDES = (5, 6, 7, 8)


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Return the width and height [px] that a stored photo has when it is upright."""
    return (height, width) if orientation in SWAPS_SIDES else (width, height)


def upright_array(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn stored pixels upright. Shape: (H, W, ...) -> (H, W, ...) or (W, H, ...)."""
    if orientation in SWAPS_SIDES:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # the stored rows run from the bottom to the top
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def upright_image(image: "Image") -> "Image":
    """Turn a decoded Pillow image upright; Pillow has already turned TIFFs and removed their tag."""
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
    turn = turns.get(image_orientation(image))
    return image if turn is None else image.transpose(turn)


def image_orientation(image: "Image") -> int:
    """Read a Pillow image's orientation, 1..8; 1 if it has none or its metadata is damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged metadata raise anything; the pixels are still good
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
