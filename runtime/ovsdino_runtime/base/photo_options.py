"""How the files of photos are read, where they leave a choice."""

from dataclasses import dataclass

from ovsdino_runtime.base.errors import OptionError

MIN_BITS, MAX_BITS = 8, 32


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """What a file does not say about its pixels.

    Args:
        bands: which bands of a TIFF are red, green and blue, or which one is grey; the first is 1. Choose it
            for rasters whose bands have no colours, such as those of satellites.
        bits: how many bits of each value are used, 8..32. Choose it for cameras that store 10, 12 or 14 bits
            in 16 and do not declare it.
        strict: refuse a JPEG that lacks its last bytes. Choose it where a damaged file must not pass.
    """

    bands: tuple[int, ...] | None = None
    bits: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise OptionError(
                f"bands are {self.bands}: expected one (grey) or three (red, green, blue), counted from 1"
            )
        if self.bits is not None and not MIN_BITS <= self.bits <= MAX_BITS:
            raise OptionError(f"bits are {self.bits}: expected {MIN_BITS}..{MAX_BITS}")


DEFAULT_PHOTO_OPTIONS = PhotoOptions()
