"""Read 16-bit colour PNGs that use fewer bits; Pillow keeps only the upper 8 (extra ``tiff``)."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.bit_depth import to_8_bits
from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.file_start import read_all, read_start
from ovsdino_runtime.base.install import install_command

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTH, COLOUR_TYPE = 24, 25  # bytes of the header
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def read_png_header(file: Path | BinaryIO) -> tuple[int, int] | None:
    """Read the bits per sample and the colour type of a PNG; None for another format."""
    start = read_start(file)
    if not start.startswith(SIGNATURE) or len(start) <= COLOUR_TYPE:
        return None
    return start[DEPTH], start[COLOUR_TYPE]


def has_wide_colours(file: Path | BinaryIO) -> bool:
    """Tell whether a file is a 16-bit colour PNG, of which Pillow keeps only 8 bits."""
    return read_png_header(file) in ((16, RGB), (16, RGBA), (16, GREY_ALPHA))


def read_wide_png(file: Path | BinaryIO, bits: int | None) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Read a 16-bit colour PNG that uses fewer bits, as 8 bits.

    Args:
        file: the PNG.
        bits: bit depth; None guesses it from the largest value, see `to_8_bits`.

    Shape: (H, W, 3) or (H, W, 4).

    Raises:
        PhotoError: imagecodecs is not installed, or the values do not fit into the bits.
        Exception: the file is broken.
    """
    try:
        import imagecodecs
    except ImportError as error:
        raise PhotoError(
            f"16-bit colours that use fewer bits: reading them needs imagecodecs: {install_command('tiff')}"
        ) from error
    samples = imagecodecs.png_decode(read_all(file))  # (H, W, 2..4)
    count = 1 if samples.shape[2] == 2 else 3  # of colours
    colours, used, notes = to_8_bits(samples[:, :, :count], declared=None, bits=bits)
    colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
    if samples.shape[2] == count:
        return np.ascontiguousarray(colours), notes
    alpha = samples[:, :, count]
    width = used if int(alpha.max()) < 1 << used else 16
    return np.dstack([colours, to_8_bits(alpha, declared=width, bits=None)[0]]), notes
