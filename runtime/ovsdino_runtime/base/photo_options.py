"""Options for reading photo files that do not describe their pixels fully."""

from dataclasses import dataclass

from ovsdino_runtime.base.errors import OptionError

MIN_BITS, MAX_BITS = 8, 32
MAX_DIGITS = 5  # largest number of a band


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """How to read pixels that a photo file does not describe.

    Example:
        >>> segmenter("sentinel.tif", "forest, water", photo_options=PhotoOptions(bands=(4, 3, 2)))

    Args:
        bands: which bands of a TIFF are red, green and blue, or which one is grey; the first is 1. Choose it
            for rasters whose bands are not marked as colours, such as satellite images.
        bits: bit depth of the values, 8..32. Choose it for cameras that store 10, 12 or 14 bits in 16 and do
            not declare it.
        strict: reject a JPEG whose last bytes are missing. Choose it where no damaged file may pass.
    """

    bands: tuple[int, ...] | None = None
    bits: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            OptionError: the message names the option, its value, and the valid values.
        """
        bands = self.bands
        if bands is not None and not (
            isinstance(bands, tuple) and len(bands) in (1, 3) and all(_is_count(band) for band in bands)
        ):
            raise OptionError(
                f"bands are {bands!r:.40}: expected one (grey) or three (red, green, blue), counted from 1, "
                "such as (3, 2, 1)"
            )
        if self.bits is not None and not (_is_count(self.bits) and MIN_BITS <= self.bits <= MAX_BITS):
            raise OptionError(f"bits are {self.bits!r:.40}: expected {MIN_BITS}..{MAX_BITS}")
        if not isinstance(self.strict, bool):
            raise OptionError(f"strict is {self.strict!r:.40}: expected True or False")


def parse_bands(text: str) -> tuple[int, ...]:
    """Parse bands such as "3,2,1" or "4".

    Raises:
        OptionError: the text is not a list of numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= MAX_DIGITS for part in parts):
        raise OptionError(f"bands {text[:40]!r} are no list of numbers such as 3,2,1")
    return tuple(map(int, parts))


def parse_bits(text: str) -> int:
    """Parse a bit depth such as "12".

    Raises:
        OptionError: the text is not a whole number.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise OptionError(f"bits are {text[:40]!r}: expected {MIN_BITS}..{MAX_BITS}")
    return int(text)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


DEFAULT_PHOTO_OPTIONS = PhotoOptions()
