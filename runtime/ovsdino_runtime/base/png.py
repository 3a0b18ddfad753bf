"""Write RGB PNGs in an eighth of Pillow's time: one fixed filter, where Pillow tries five on each row.

Differences of neighbouring pixels rarely repeat, apart from runs of one value. So zlib looks for runs only
(Z_RLE): against its level 1, three overlays took 7 to 18 % less time and were 7 % smaller to 2 % larger.

Source: PNG specification, third edition (W3C, 2025), sections 5.3 (chunks), 9.2 (filters) and 11.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Photo

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SUB = 1  # "Sub": each byte minus the same colour of the pixel to its left
LEVEL, MEMORY = 1, 9  # zlib's level and memory level; of runs, no other level finds more


def write_png(file: BinaryIO, pixels: Photo, *, text: Mapping[str, str]) -> None:
    """Write a photo as a lossless PNG.

    Args:
        file: open for writing.
        pixels: (H, W, 3) RGB.
        text: keyword -> text of the PNG's text chunks, in Latin-1.
    """
    height, width, _ = pixels.shape
    file.write(SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))  # 8 bits, RGB
    for keyword, words in text.items():
        _write_chunk(file, b"tEXt", keyword.encode("latin-1") + b"\0" + words.encode("latin-1"))
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, MEMORY, zlib.Z_RLE)
    _write_chunk(file, b"IDAT", packer.compress(_filter_rows(pixels).data) + packer.flush())
    _write_chunk(file, b"IEND", b"")


def _filter_rows(pixels: Photo) -> npt.NDArray[np.uint8]:
    """Return rows of the filter's number and the differences to the left. Shape: (H, 1 + 3 * W)."""
    flat = pixels.reshape(len(pixels), -1)  # (H, 3 * W)
    rows = np.empty((len(flat), 1 + flat.shape[1]), np.uint8)
    rows[:, 0] = SUB
    rows[:, 1:4] = flat[:, :3]
    np.subtract(flat[:, 3:], flat[:, :-3], out=rows[:, 4:])  # modulo 256
    return rows


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    check = zlib.crc32(data, zlib.crc32(kind))
    for part in (struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)):
        file.write(part)
