"""Decode photos of any orientation, mode, transparency, bit depth and colour profile."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ovsdino_runtime.base.bit_depth import to_8_bits
from ovsdino_runtime.base.color_profile import to_srgb
from ovsdino_runtime.base.decoded_photo import DecodedPhoto
from ovsdino_runtime.base.errors import NotAPhotoError, PhotoError, TooLargeError
from ovsdino_runtime.base.file_start import read_all, read_start
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.jpeg_tail import complete_jpeg, has_end
from ovsdino_runtime.base.orientation import image_orientation, upright_array, upright_image
from ovsdino_runtime.base.photo_address import fetch_photo, is_address, without_password
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.png_depth import has_wide_colours, read_wide_png
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.base.size_limits import NO_LIMITS, SizeLimits
from ovsdino_runtime.base.tiff import (
    NOT_ALPHA,
    find_valid,
    has_tiff_reader,
    looks_like_alpha,
    note_left_out,
    read_tiff,
    refuse_layout,
)
from ovsdino_runtime.base.tiff_layout import MIN_IS_WHITE, WEBP, TiffLayout, read_tiff_layout
from ovsdino_runtime.geometry.types import Photo

if TYPE_CHECKING:
    from PIL.Image import Image

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
LAST_BYTES = "its last bytes are missing: read up to there"


def load_photo(path: str | Path, *, options: PhotoOptions = DEFAULT_PHOTO_OPTIONS) -> Photo:
    """Decode a photo, upright, with transparent pixels on white.

    Issues a `PhotoWarning` for each choice made while decoding, such as a guessed bit depth.

    Example:
        >>> load_photo("street.jpg").shape
        (480, 640, 3)

    Args:
        path: a file in any format that Pillow reads, or its address (http, https). Of an animation the
            first picture is read.
        options: how to read pixels that the file does not describe.

    Shape: (H, W, 3) RGB.

    Raises:
        PhotoError: the file is missing, broken, truncated or too large.
    """
    decoded = decode_photo(path, options=options)
    decoded.warn(str(path))
    return decoded.photo


def decode_photo(path: str | Path, *, options: PhotoOptions = DEFAULT_PHOTO_OPTIONS) -> DecodedPhoto:
    """Decode a photo; return its pixels, its pixels without data, and notes.

    Args:
        path: see `load_photo`.
        options: how to read pixels that the file does not describe.

    Raises:
        PhotoError: the file is missing, broken, truncated or too large.
    """
    file: Path | BinaryIO
    if isinstance(path, str) and is_address(path):
        file, shown = fetch_photo(path), without_password(path)
    else:
        file = path = Path(path)
        shown = str(path)
        if not path.is_file():
            raise PhotoError(f"{path}: {_why_no_file(path)}")
    try:
        return decode_file(file, options=options)
    except PhotoError as error:
        raise type(error)(f"{shown}: {error}") from error


def _why_no_file(path: Path) -> str:
    """Say what a path is that is not a file."""
    try:
        regular_file(path)
    except IsADirectoryError:
        return "a directory, expected a photo"
    except OSError as error:
        return "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
    except ValueError:  # a NUL in the name
        pass
    return "no such file"


def decode_file(
    file: Path | BinaryIO,
    *,
    options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
    formats: tuple[str, ...] | None = None,
    limits: SizeLimits = NO_LIMITS,
) -> DecodedPhoto:
    """Decode an untrusted photo: its format and size are checked before its pixels are decoded.

    Args:
        file: an existing file, or an open one.
        options: how to read pixels that the file does not describe.
        formats: Pillow's names of the accepted formats; None accepts all.
        limits: the largest accepted photo.

    Raises:
        NotAPhotoError: the format is not accepted.
        TooLargeError: the photo exceeds the limits.
        PhotoError: the photo is broken or truncated.
    """
    with photo_errors():
        if not read_start(file):
            raise NotAPhotoError("the file is empty; get it again")
        layout = read_tiff_layout(file)
        if layout is not None and (formats is None or "TIFF" in formats):
            limits.check(layout.size, max_pixels=max_pixels())
            return _decode_tiff(file, layout, options=options, formats=formats)
        if options.bands is not None:
            raise PhotoError("bands can be chosen of TIFFs only; leave out the bands")
        if has_wide_colours(file):
            return _decode_wide_png(file, options, formats=formats, limits=limits)
        return _decode_by_pillow(file, options, formats=formats, limits=limits)


@contextmanager
def photo_errors() -> Iterator[None]:
    """Turn every exception of a decoder into a `PhotoError`; broken files raise many kinds.

    Raises:
        NotAPhotoError: no decoder knows the format.
        TooLargeError: the photo has more pixels than Pillow accepts.
        PhotoError: the file is broken or truncated.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large photos and odd metadata need no warning
            yield
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        limit = max_pixels() // 1_000_000
        raise TooLargeError(f"more than {limit} megapixels; scale the photo down first") from error
    except MemoryError as error:
        raise TooLargeError("too little memory to decode it; scale the photo down first") from error
    except UnidentifiedImageError as error:
        raise NotAPhotoError(
            "not a photo, or of a format that Pillow cannot read; convert it to PNG or JPEG"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(f"broken photo: {reason:.200}; get the file again") from error


def to_photo(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Photo:
    """Accept an array as a photo.

    Shape: (H, W, 3) RGB or (H, W) grey, uint8 -> (H, W, 3).

    Raises:
        PhotoError: the array has another shape or type.
    """
    if pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.size:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size:
        return pixels
    raise PhotoError(
        f"the array is {pixels.dtype} with shape {pixels.shape}: expected uint8, (height, width, 3) in RGB "
        "or (height, width) in grey"
    )


def decode_image(image: "Image") -> DecodedPhoto:
    """Turn a Pillow image upright and convert it to 8-bit RGB.

    Raises:
        PhotoError: the pixel values have no natural range, such as 32-bit floats.
    """
    with photo_errors():
        return _finish(image, DEFAULT_PHOTO_OPTIONS)


def _decode_tiff(
    file: Path | BinaryIO, layout: TiffLayout, *, options: PhotoOptions, formats: tuple[str, ...] | None
) -> DecodedPhoto:
    from PIL import UnidentifiedImageError

    pages = (f"it has {layout.pages} pages: only the first was read",) if layout.pages > 1 else ()
    by_pillow = layout.is_plain or (layout.is_wide and not has_tiff_reader(file))
    if layout.compression == WEBP and has_tiff_reader(file):
        by_pillow = False  # libtiff would write its complaints to standard error
    if by_pillow and options.bands is None:
        try:
            decoded = _decode_plain_tiff(file, layout, options=options, formats=formats)
            return decoded.with_notes(*note_left_out(layout, options), *pages)
        except PhotoError:
            raise
        except Exception as error:  # Pillow lacks some layouts and compressions
            if not has_tiff_reader(file):
                raise (
                    refuse_layout(layout) if isinstance(error, UnidentifiedImageError) else error
                ) from error
    image, valid, notes = read_tiff(file, layout, options)
    return _finish(image, options, icc=layout.icc, valid=valid).with_notes(*notes, *pages)


def _decode_plain_tiff(
    file: Path | BinaryIO, layout: TiffLayout, *, options: PhotoOptions, formats: tuple[str, ...] | None
) -> DecodedPhoto:
    from PIL import Image

    if layout.orientation != 1:
        file = BytesIO(read_all(file))  # Pillow does not turn images that it maps into memory
    with Image.open(file, formats=formats) as image:
        image.load()
        upright = upright_image(image)
        if layout.is_wide and upright.mode in ("RGB", "L"):  # Pillow keeps the upper 8 of 16 bits
            _check_upper_bits(np.asarray(upright), layout, options)
        valid = None
        if layout.nodata is not None and upright.mode in ("L", "P", "RGB", "I;16"):
            stored = np.asarray(upright)
            valid = find_valid(stored.reshape(*stored.shape[:2], -1), layout.nodata)
        return _finish(upright, options, layout=layout, valid=valid)


def _check_upper_bits(upper: Photo, layout: TiffLayout, options: PhotoOptions) -> None:
    if layout.declared_bits or options.bits not in (None, 16) or 0 < upper.max() < 64:
        raise refuse_layout(layout)


def _decode_wide_png(
    file: Path | BinaryIO, options: PhotoOptions, *, formats: tuple[str, ...] | None, limits: SizeLimits
) -> DecodedPhoto:
    decoded = _decode_by_pillow(file, options, formats=formats, limits=limits)
    if options.bits in (None, 16) and not 0 < decoded.photo.max() < 64:
        return decoded
    from PIL import Image

    pixels, notes = read_wide_png(file, options.bits)
    with Image.open(file, formats=formats) as image:
        orientation, icc = image_orientation(image), image.info.get("icc_profile")
    upright = Image.fromarray(upright_array(pixels, orientation))
    return _finish(upright, options, icc=icc).with_notes(*notes)


def _decode_by_pillow(
    file: Path | BinaryIO, options: PhotoOptions, *, formats: tuple[str, ...] | None, limits: SizeLimits
) -> DecodedPhoto:
    from PIL import Image

    if formats is None:
        register_formats(file)
    is_jpeg = False
    try:
        with Image.open(file, formats=formats) as image:
            limits.check(image.size)
            is_jpeg = image.format in ("JPEG", "MPO")
            image.load()
            return _finish(image, options)
    except OSError as error:
        data = read_all(file) if is_jpeg else b""
        if not is_jpeg or has_end(data):
            raise
        if options.strict:
            raise PhotoError("broken photo: truncated, its last bytes are missing") from error
        data = complete_jpeg(data)
    with Image.open(BytesIO(data), formats=("JPEG", "MPO")) as image:
        return _finish(image, options).with_notes(LAST_BYTES)


def _finish(
    image: "Image",
    options: PhotoOptions,
    *,
    layout: TiffLayout | None = None,
    icc: bytes | None = None,
    valid: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None" = None,
) -> DecodedPhoto:
    """Turn an image upright and convert any mode and profile to 8-bit sRGB on white."""
    icc = icc or image.info.get("icc_profile")
    notes: tuple[str, ...] = ()
    if image.mode == "F" or image.mode.startswith("I"):
        declared = _declared_bits(image, layout)
        image = upright_image(image)
        image, notes = _from_wide_grey(image, layout, declared=declared, bits=options.bits)
    image = upright_image(image)
    if image.mode == "LAB":
        raise PhotoError("colours are LAB: expected RGB, grey or CMYK; convert the photo first")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if layout is not None and not looks_like_alpha(np.asarray(alpha), 255):
            alpha, notes = None, (*notes, NOT_ALPHA)
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    image, remarks = to_srgb(image, icc)
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
        image = _on_white(image)
    return DecodedPhoto(np.asarray(image), (*notes, *remarks), valid)


def _on_white(image: "Image") -> "Image":
    from PIL import Image as PillowImage

    page = PillowImage.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB")


def _declared_bits(image: "Image", layout: TiffLayout | None) -> int | None:
    """Return the bit depth of a grey image, if its file or the code that made it declares one."""
    if layout is not None:
        return layout.declared_bits
    if image.format in ("JPEG2000", "PPM"):
        return 16  # Pillow has scaled them
    if image.format is None and image.mode == "I":
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 255:
            return 8  # made by convert("I") of an image of 8 bits
    return None


def _from_wide_grey(
    image: "Image", layout: TiffLayout | None, *, declared: int | None, bits: int | None
) -> "tuple[Image, tuple[str, ...]]":
    """Convert 16-bit grey to 8 bits; Pillow would clip it. Before Pillow 11 a 16-bit PNG has mode "I"."""
    from PIL import Image as PillowImage

    values = np.asarray(image)
    grey, _, notes = to_8_bits(values, declared=declared, bits=bits)
    if layout is not None and layout.photometric == MIN_IS_WHITE:
        grey = 255 - grey
    key = image.info.get("transparency")
    if isinstance(key, int):  # the grey that is transparent
        alpha = np.where(values == key, 0, 255).astype(np.uint8)
        return PillowImage.fromarray(np.dstack([grey, grey, grey, alpha])), notes
    return PillowImage.fromarray(grey), notes


def max_pixels() -> int:
    """Return the largest number of pixels that Pillow accepts."""
    from PIL import Image

    return 2 * (Image.MAX_IMAGE_PIXELS or 1 << 62)


def register_formats(file: Path | BinaryIO) -> None:
    """Register Pillow's HEIC reader if a file is HEIC.

    Raises:
        PhotoError: pillow-heif is not installed.
    """
    start = read_start(file)
    if start[4:8] != b"ftyp" or start[8:12] not in HEIF_BRANDS:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise PhotoError(f"HEIC photos need pillow-heif: {install_command('heif')}") from error
    register_heif_opener()
