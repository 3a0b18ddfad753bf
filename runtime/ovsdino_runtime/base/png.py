"""Write PNGs in an eighth of Pillow's time: one fixed filter, where Pillow tries five on each row.

After the filter, photos hold small differences that rarely repeat, and labels hold zeros. So zlib looks for
runs of one value only (Z_RLE): against its level 1, three overlays took 7 to 18 % less time and were 7 %
smaller to 2 % larger.

Source: PNG specification, third edition (W3C, 2025), sections 5.3 (chunks), 9.2 (filters) and 11.
"""

import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Labels, Photo

Bytes = npt.NDArray[np.uint8]
Chunk = tuple[bytes, bytes]  # kind and data
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, INDEXED = 0, 2, 3  # colour types
SUB, UP = 1, 2  # filters: each byte minus the same colour of the pixel to its left, or above it
ZLIB_HEADER = b"\x78\x01"  # deflate, window of 32 KiB, fastest
PARALLEL_BYTES = 1 << 18  # from here on, starting a thread takes less time than it saves
LEVEL, MEMORY = 1, 9  # zlib's level and memory level; of runs, no other level finds more


def write_png(file: BinaryIO, pixels: Photo, *, chunks: Iterable[Chunk] = ()) -> None:
    """Write a photo as a lossless PNG.

    Args:
        file: open for writing.
        pixels: (H, W, 3) RGB.
        chunks: further chunks, such as those of `text_chunk`.
    """
    flat = pixels.reshape(len(pixels), -1)  # (H, 3 * W)
    rows = np.empty((len(flat), 1 + flat.shape[1]), np.uint8)
    rows[:, 0] = SUB
    rows[:, 1:4] = flat[:, :3]
    np.subtract(flat[:, 3:], flat[:, :-3], out=rows[:, 4:])  # modulo 256
    _write(file, pixels.shape[1], rows, color=(8, RGB), chunks=chunks)


def write_indexed_png(
    file: BinaryIO, labels: Labels, palette: Bytes | None, *, chunks: Iterable[Chunk] = ()
) -> None:
    """Write labels as a lossless PNG: indexed, or 16-bit grey without a palette.

    Args:
        file: open for writing.
        labels: (H, W); with a palette below 256.
        palette: (n, 3) RGB, n up to 256.
        chunks: further chunks, such as those of `text_chunk`.
    """
    height, width = labels.shape
    kind = ">u2" if palette is None else "u1"
    flat = np.ascontiguousarray(labels, kind).view(np.uint8).reshape(height, -1)
    rows = np.empty((height, 1 + flat.shape[1]), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])  # modulo 256
    if palette is None:
        _write(file, width, rows, color=(16, GREY), chunks=chunks)
    else:
        _write(file, width, rows, color=(8, INDEXED), chunks=[(b"PLTE", palette.tobytes()), *chunks])


def text_chunk(keyword: str, words: str) -> Chunk:
    """Return a chunk of text; keyword and words must be in Latin-1."""
    return b"tEXt", keyword.encode("latin-1") + b"\0" + words.encode("latin-1")


def _write(
    file: BinaryIO, width: int, rows: Bytes, *, color: tuple[int, int], chunks: Iterable[Chunk]
) -> None:
    """Write filtered rows; ``color`` is the bit depth and the colour type. Shape: rows (H, 1 + bytes)."""
    file.write(SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, len(rows), *color, 0, 0, 0))
    for kind, data in chunks:
        _write_chunk(file, kind, data)
    _write_chunk(file, b"IDAT", _compress(rows))
    _write_chunk(file, b"IEND", b"")


def _compress(rows: Bytes) -> bytes:
    """Compress rows in the format of zlib, a large image in two halves at once.

    Source: RFC 1950 (header, checksum) and RFC 1951 (blocks, which a full flush ends at a whole byte).
    """
    if rows.size < PARALLEL_BYTES:
        return ZLIB_HEADER + _deflate(rows, zlib.Z_FINISH) + zlib.adler32(rows.data).to_bytes(4, "big")
    upper, lower = np.array_split(rows, 2)
    with ThreadPoolExecutor(1, "png") as beside:
        first = beside.submit(_deflate, upper, zlib.Z_FULL_FLUSH)
        second = _deflate(lower, zlib.Z_FINISH)
        check = zlib.adler32(rows.data)
        return b"".join((ZLIB_HEADER, first.result(), second, check.to_bytes(4, "big")))


def _deflate(rows: Bytes, end: int) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, MEMORY, zlib.Z_RLE)
    return packer.compress(rows.data) + packer.flush(end)


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    check = zlib.crc32(data, zlib.crc32(kind))
    for part in (struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)):
        file.write(part)
