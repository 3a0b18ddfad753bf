"""Read photos and words that strangers send: sizes are checked before anything costs memory or time."""

from dataclasses import dataclass
from io import BytesIO

from ovsdino_runtime.base.errors import ClassesError, TooLargeError
from ovsdino_runtime.base.photo import read_photo
from ovsdino_runtime.base.size_limits import SizeLimits
from ovsdino_runtime.geometry.types import Photo
from ovsdino_runtime.text.vocabulary import Vocabulary

# Formats of photos whose decoders stay in this process: Pillow hands PostScript to another program.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True)
class UploadLimits:
    """The most that one request may hold."""

    megabytes: float = 20  # of a photo's file
    megapixels: float = 25
    side: int = 16_000  # [px] of a photo's longer side
    aspect: int = 200  # of a photo's longer side to its shorter one
    classes: int = 2000
    words: int = 8000  # all synonyms of all classes

    @property
    def bytes(self) -> int:
        """The most bytes of a photo's file."""
        return int(self.megabytes * 1_000_000)

    @property
    def size(self) -> SizeLimits:
        """The largest photo that is decoded."""
        return SizeLimits(pixels=int(self.megapixels * 1_000_000), side=self.side, aspect=self.aspect)


def read_upload(data: bytes, limits: UploadLimits) -> Photo:
    """Decode a photo that was sent.

    Shape: (H, W, 3) RGB.

    Raises:
        TooLargeError: it has more bytes or pixels than are taken.
        NotAPhotoError: it is none, or of a format that is not taken.
        PhotoError: it is broken or truncated.
    """
    if len(data) > limits.bytes:
        raise TooLargeError(
            f"{len(data) / 1e6:.1f} megabytes: expected at most {limits.megabytes:g}; "
            "scale the photo down first"
        )
    return read_photo(BytesIO(data), formats=_readable(), limits=limits.size)


def check_count(vocabulary: Vocabulary, limits: UploadLimits) -> Vocabulary:
    """Reject a vocabulary with too many classes, or with too many words in all of them.

    Raises:
        ClassesError: it has too many.
    """
    if (count := len(vocabulary.entries)) > limits.classes:
        raise ClassesError(f"got {count} classes: expected at most {limits.classes}; ask in several requests")
    if (count := sum(map(len, vocabulary.entries))) > limits.words:
        raise ClassesError(f"got {count} words: expected at most {limits.words}; ask in several requests")
    return vocabulary


def _readable() -> tuple[str, ...]:
    """Name the formats that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
