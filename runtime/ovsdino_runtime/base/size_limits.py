"""Size limits of photos, checked against the header before any pixel is decoded."""

from dataclasses import dataclass

from ovsdino_runtime.base.errors import TooLargeError


@dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """The largest photo that is decoded; None sets no limit.

    Side and aspect matter because a photo of one row has few pixels, yet the memory of later stages grows
    with its longer side.

    Args:
        pixels: largest number of pixels.
        side: largest longer side [px].
        aspect: largest ratio of the longer to the shorter side.
    """

    pixels: int | None = None
    side: int | None = None
    aspect: int | None = None

    def check(self, size: tuple[int, int], *, max_pixels: int | None = None) -> None:
        """Reject a photo that exceeds a limit.

        Args:
            size: width and height [px].
            max_pixels: limit of pixels if ``pixels`` is None.

        Raises:
            TooLargeError: the message names the limit.
        """
        width, height = size
        pixels = self.pixels if self.pixels is not None else max_pixels
        if pixels is not None and width * height > pixels:
            raise TooLargeError(
                f"{width}x{height} px: expected at most {pixels / 1e6:g} megapixels; "
                "scale the photo down first"
            )
        if self.side is not None and max(size) > self.side:
            raise TooLargeError(
                f"{width}x{height} px: expected a longer side of at most {self.side} px; "
                "scale the photo down or cut it first"
            )
        if self.aspect is not None and max(size) > self.aspect * min(size):
            raise TooLargeError(
                f"{width}x{height} px: expected the longer side to be at most {self.aspect} times the "
                "shorter one; cut the photo first"
            )


NO_LIMITS = SizeLimits()
