"""Read the pixel layout from a TIFF's first directory.

Source: TIFF 6.0; BigTIFF; GDAL's tag 42113 for pixels without data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.orientation import ORIENTATION, upright_size

BIG_BIGTIFF = b"MM\0+"  # Pillow does not read its directory
BYTE_ORDERS = (b"II", b"MM")
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 256, 257, 258, 259, 262, 277, 284
MAX_VALUE, EXTRA_SAMPLES, SAMPLE_FORMAT, ICC, NODATA, SUBFILE = 281, 338, 339, 34675, 42113, 254
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
WEBP = 50001  # a compression
COLOURS = {
    MIN_IS_WHITE: "MINISWHITE",
    MIN_IS_BLACK: "MINISBLACK",
    RGB: "RGB",
    PALETTE: "palette",
    CMYK: "CMYK",
    YCBCR: "YCbCr",
    8: "CIELAB",
}
SAMPLES_OF = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
COMPRESSIONS = {1: "no", 5: "LZW", 7: "JPEG", 8: "Deflate", 32946: "Deflate", 34887: "LERC", 50000: "ZSTD"}
NUMBERS = {1: "uint", 2: "int", 3: "float"}
ALPHA = (1, 2)  # associated alpha (colours are multiplied by it) and unassociated alpha
MAX_PAGES = 10_000


@dataclass(frozen=True)
class TiffLayout:
    """The pixel layout of a TIFF's first page."""

    width: int  # [px] as stored
    height: int  # [px] as stored
    bits: tuple[int, ...]  # bits of each sample
    number: str  # "uint", "int", "float" or another
    photometric: int
    samples: int  # samples per pixel
    extra: tuple[int, ...]  # meaning of the samples after the colours
    by_bands: bool  # stored band by band, not pixel by pixel
    compression: int
    orientation: int  # 1..8
    max_value: int | None  # bits in use, as the file declares
    nodata: float | None  # the value of pixels without data
    icc: bytes | None
    pages: int  # without thumbnails and masks

    @property
    def size(self) -> tuple[int, int]:
        """Width and height [px], upright."""
        return upright_size(self.width, self.height, self.orientation)

    @property
    def colours(self) -> int:
        """Number of samples that are colours; 0 if the photometric interpretation is unknown."""
        return SAMPLES_OF.get(self.photometric, 0)

    @property
    def declared_bits(self) -> int | None:
        """Bits of a value that are in use, if the file declares them."""
        bits = max(self.bits)
        if self.number == "int" and bits <= 16:
            return bits - 1
        if self.max_value is not None and 255 <= self.max_value < (1 << bits) - 1:
            return self.max_value.bit_length()
        return bits if bits < 16 else None

    @property
    def is_plain(self) -> bool:
        """Tell whether Pillow reads it correctly: whole numbers of at most 8 bits, known colours."""
        same = len(set(self.bits)) == 1
        small = self.bits[0] == 8 or (self.bits[0] in (1, 2, 4) and self.samples == 1)
        return (
            same
            and small
            and self.number == "uint"
            and self.colours > 0
            and self.samples >= self.colours
            and not (self.colours == 1 and self.samples > 1)
            and not (self.by_bands and self.samples > 1)
        )

    @property
    def is_wide(self) -> bool:
        """Tell whether Pillow reads it correctly as 16 bits; of colours it keeps the upper 8."""
        return (
            set(self.bits) == {16}
            and self.number == "uint"
            and ((self.colours == 1 and self.samples == 1) or (self.photometric == RGB and self.samples == 3))
            and not (self.by_bands and self.samples > 1)
        )

    def describe(self) -> str:
        """Describe the layout for a message."""
        bands = f"{self.samples} band{'s' * (self.samples > 1)} of {max(self.bits)}-bit {self.number}"
        order = ", band by band" if self.by_bands and self.samples > 1 else ""
        packed = COMPRESSIONS.get(self.compression, f"number {self.compression}")
        colours = COLOURS.get(self.photometric, f"colours {self.photometric}")
        return f"{bands}, {colours}{order}, {packed} compression"


def read_tiff_tags(file: Path) -> Mapping[int, Any] | None:
    """Read the tags of a TIFF's first directory; None for a file of another format.

    Raises:
        Exception: the directory is damaged; any exception of Pillow's reader.
    """
    with file.open("rb") as opened:
        start = opened.read(16)
        return next(_directories(opened, start)) if _is_tiff(start) else None


def read_tiff_layout(file: Path | BinaryIO) -> TiffLayout | None:
    """Read the layout of a TIFF; None for a file of another format. An open file keeps its position.

    Raises:
        PhotoError: the file is a big-endian BigTIFF.
        Exception: the directory is damaged; any exception of Pillow's reader.
    """
    with _opened(file) as opened:
        start = opened.read(16)
        if not _is_tiff(start):
            return None
        directories = _directories(opened, start)
        if start[:4] == BIG_BIGTIFF:
            raise PhotoError("a big-endian BigTIFF; write it with gdal_translate -co ENDIANNESS=LITTLE")
        first = next(directories)
        pages = 1 + sum(not int(tags.get(SUBFILE, 0)) & 5 for tags in directories)
        return _layout(first, pages)


def _is_tiff(start: bytes) -> bool:
    return start[:2] in BYTE_ORDERS and start[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+")


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            yield opened
        return
    place = file.tell()
    try:
        yield file
    finally:
        file.seek(place)


def _directories(file: BinaryIO, start: bytes) -> Iterator[Mapping[int, Any]]:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2(start[:16] if b"+" in start[2:4] else start[:8])
    seen: set[int] = set()
    while directory.next and directory.next not in seen and len(seen) < MAX_PAGES:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        yield dict(directory)


def _layout(tags: Mapping[int, Any], pages: int) -> TiffLayout:
    orientation = tags.get(ORIENTATION, 1)
    samples = int(tags.get(SAMPLES, 1))
    formats = _several(tags.get(SAMPLE_FORMAT, 1))
    largest = tags.get(MAX_VALUE)
    bits = tuple(int(bit) for bit in _several(tags.get(BITS, 1)))
    return TiffLayout(
        width=int(tags[WIDTH]),
        height=int(tags[HEIGHT]),
        bits=bits if len(bits) > 1 else bits * samples,
        number=NUMBERS.get(formats[0], f"format {formats[0]}") if len(set(formats)) == 1 else "mixed",
        photometric=int(tags.get(PHOTOMETRIC, MIN_IS_BLACK)),
        samples=samples,
        extra=tuple(_several(tags.get(EXTRA_SAMPLES, ()))),
        by_bands=tags.get(PLANAR, 1) == 2,
        compression=int(tags.get(COMPRESSION, 1)),
        orientation=orientation if orientation in range(1, 9) else 1,
        max_value=None if largest is None else int(max(_several(largest))),
        nodata=_nodata(tags.get(NODATA)),
        icc=tags.get(ICC),
        pages=pages,
    )


def _several(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a tag has one value or many
    return value if isinstance(value, tuple) else (value,)


def _nodata(text: object) -> float | None:
    try:
        return float(str(text).strip(" \0"))
    except ValueError:
        return None
