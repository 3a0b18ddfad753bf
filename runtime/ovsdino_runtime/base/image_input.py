"""Accept photos as paths, URLs, bytes, open files, arrays, Pillow images and tensors."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np

from ovsdino_runtime.base.decoded_photo import DecodedPhoto
from ovsdino_runtime.base.errors import OptionError, PhotoError
from ovsdino_runtime.base.photo import decode_file, decode_image, decode_photo, to_photo
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.geometry.types import Array, Photo

if TYPE_CHECKING:
    from PIL.Image import Image

Channels = Literal["rgb", "bgr"]
# A path or URL, a file's bytes, an open file, an array, a Pillow image, or a tensor (with DLPack).
ImageInput: TypeAlias = "str | Path | bytes | BinaryIO | Array | Image | Any"
EXPECTED = "expected a path, a URL, bytes, an open file, a uint8 array, a Pillow image or a tensor"


def as_photo(
    image: ImageInput, *, channels: Channels = "rgb", options: PhotoOptions = DEFAULT_PHOTO_OPTIONS
) -> Photo:
    """Decode or convert a photo; see `decode_input` for the arguments and errors.

    Issues a `PhotoWarning` for each choice made while decoding, such as a guessed bit depth.

    Shape: (H, W, 3) RGB.
    """
    decoded = decode_input(image, channels=channels, options=options)
    decoded.warn(str(image) if isinstance(image, str | Path) else "")
    return decoded.photo


def decode_input(
    image: ImageInput, *, channels: Channels = "rgb", options: PhotoOptions = DEFAULT_PHOTO_OPTIONS
) -> DecodedPhoto:
    """Decode or convert a photo; return its pixels, its pixels without data, and notes.

    Args:
        image: a path or URL; the bytes of a file; a file opened in binary mode; a uint8 array or tensor
            (H, W, 3) or (H, W), a tensor also (3, H, W); or a Pillow image.
        channels: colour order of an array or tensor. Choose "bgr" for arrays from OpenCV.
        options: how to read pixels that the file does not describe; for paths, URLs, bytes and open files.

    Raises:
        PhotoError: the photo cannot be read, or has an unsupported type, shape or number type.
        OptionError: ``options`` are given with an array, image or tensor.
    """
    if channels not in ("rgb", "bgr"):
        raise PhotoError(f"channels are {channels!r:.40}: expected 'rgb' or 'bgr'")
    pixels = _as_array(image)
    if pixels is not None:
        _require_no_options(image, options)
        photo = to_photo(pixels)
        return DecodedPhoto(np.ascontiguousarray(photo[:, :, ::-1]) if channels == "bgr" else photo)
    if channels == "bgr":
        raise PhotoError(
            f"channels='bgr' is for arrays and tensors, got {type(image).__name__}; leave it out"
        )
    return _decode(image, options)


def _require_no_options(image: object, options: PhotoOptions) -> None:
    if options != DEFAULT_PHOTO_OPTIONS:
        raise OptionError(
            f"bands, bits and strict are for files, got {type(image).__name__}; leave the options out"
        )


def _as_array(image: Any) -> Array | None:  # noqa: ANN401 - what is no photo is refused
    """Return the pixels of an array or tensor; None for an input that must be decoded."""
    if isinstance(image, np.ndarray):
        return image
    if not hasattr(image, "__dlpack__"):
        return None
    if getattr(image, "requires_grad", False):
        image = image.detach()
    try:
        pixels: Array = np.from_dlpack(image)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        device = getattr(image, "device", "another device")
        raise PhotoError(
            f"the tensor cannot be read ({error}; device {device}): expected uint8 in host memory; "
            "call .cpu()"
        ) from error
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        return pixels.transpose(1, 2, 0)  # (3, H, W) -> (H, W, 3)
    return pixels


def _decode(image: Any, options: PhotoOptions) -> DecodedPhoto:  # noqa: ANN401 - what is no photo is refused
    if isinstance(image, str | Path):
        return decode_photo(image, options=options)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_file(BytesIO(image), options=options)
    if hasattr(image, "read") and not hasattr(image, "getexif"):
        data = image.read()
        if not isinstance(data, bytes):
            raise PhotoError(f"the file is open in text mode ({EXPECTED}); open it with mode 'rb'")
        return decode_file(BytesIO(data), options=options)
    from PIL.Image import Image as PillowImage

    if isinstance(image, PillowImage):
        _require_no_options(image, options)
        return decode_image(image)
    raise PhotoError(f"the photo is {type(image).__name__}: {EXPECTED}")
