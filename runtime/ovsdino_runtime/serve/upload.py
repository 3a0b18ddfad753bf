"""Read uploaded photos and words: check sizes before they cost memory or time."""

from dataclasses import dataclass
from io import BytesIO

from ovsdino_runtime.base.decoded_photo import DecodedPhoto
from ovsdino_runtime.base.errors import ClassesError, TooLargeError
from ovsdino_runtime.base.photo import decode_file
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.size_limits import SizeLimits
from ovsdino_runtime.text.vocabulary import Vocabulary

# Formats of photos whose decoders stay in this process: Pillow hands PostScript to another program.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

SEPARATORS = ",|\n"  # of words


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Size limits of one request."""

    megabytes: float = 20  # of a photo's file
    megapixels: float = 25
    side: int = 16_000  # [px] of a photo's longer side
    aspect: int = 200  # of a photo's longer side to its shorter one
    classes: int = 2000
    words: int = 8000  # all synonyms of all classes

    @property
    def bytes(self) -> int:
        """Largest size of a photo file [bytes]."""
        return int(self.megabytes * 1_000_000)

    @property
    def size(self) -> SizeLimits:
        """Limits on the decoded photo."""
        return SizeLimits(pixels=int(self.megapixels * 1_000_000), side=self.side, aspect=self.aspect)


def read_upload(
    data: bytes, limits: UploadLimits, *, options: PhotoOptions = DEFAULT_PHOTO_OPTIONS
) -> DecodedPhoto:
    """Decode an uploaded photo, with notes on what had to be decided.

    Raises:
        TooLargeError: the file has too many bytes, or the photo too many pixels.
        NotAPhotoError: the data is not a photo, or has a format that is not accepted.
        PhotoError: the photo is broken or truncated.
    """
    if len(data) > limits.bytes:
        raise TooLargeError(
            f"{len(data) / 1e6:.1f} megabytes: expected at most {limits.megabytes:g}; "
            "scale the photo down first"
        )
    return decode_file(BytesIO(data), options=options, formats=_readable(), limits=limits.size)


def check_count(vocabulary: Vocabulary, limits: UploadLimits) -> Vocabulary:
    """Return the vocabulary if it does not have too many classes or words.

    Raises:
        ClassesError: there are too many classes, or too many words in all classes.
    """
    if (count := len(vocabulary.entries)) > limits.classes:
        raise ClassesError(f"got {count} classes: expected at most {limits.classes}; ask in several requests")
    if (count := sum(map(len, vocabulary.entries))) > limits.words:
        raise ClassesError(f"got {count} words: expected at most {limits.words}; ask in several requests")
    return vocabulary


def check_length(text: str | None, limits: UploadLimits) -> None:
    """Reject text with far more words than a request may have, before it is parsed.

    Raises:
        ClassesError: it has more than twice as many separators as there may be words.
    """
    count = sum(map((text or "").count, SEPARATORS))
    if count > 2 * limits.words:
        raise ClassesError(
            f"got some {count} words: expected at most {limits.words}; ask in several requests"
        )


def _readable() -> tuple[str, ...]:
    """Return the accepted formats that the installed Pillow can decode."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
