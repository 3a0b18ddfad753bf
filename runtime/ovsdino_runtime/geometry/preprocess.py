"""Preprocessing for the vision engine: resize, normalise and cut a photo.

numpy only, except for the antialiased resize, which is Pillow's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.geometry.windows import Window


@dataclass(frozen=True)
class Preprocessing:
    """The size to which photos are resized, and how colours are normalised. Stored in the bundle."""

    short_side: int = 448  # [px]
    long_side: int = 2048  # [px] upper limit of the longer side
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # RGB, in 0..1
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # RGB, in 0..1

    def __post_init__(self) -> None:
        """Reject invalid sizes and colours.

        Raises:
            ValueError: a side is below 1, the short one exceeds the long one, or a deviation is not positive.
        """
        if not 1 <= self.short_side <= self.long_side:
            raise ValueError(
                f"expected 1 <= short_side <= long_side, got {self.short_side} and {self.long_side}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


def fit_size(height: int, width: int, *, short_side: int, long_side: int) -> tuple[int, int]:
    """Scale a size so that it just fits both limits, keeping its proportions.

    Source: mmcv 1.7, ``imrescale``: the smaller of the two scales, rounded half up.

    Args:
        height, width: size of the photo [px].
        short_side, long_side: limits of the shorter and the longer side [px].

    Returns:
        Height and width [px], each at least 1.
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def bilinear_taps(
    source: int, target: int, *, start: int = 0, stop: int | None = None
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Return the two source pixels and their blend for each target pixel along one axis (half-pixel centres).

    Args:
        source, target: length of the axis before and after [px].
        start, stop: target pixels to compute; all by default.

    Returns:
        Index of the lower and of the upper neighbour, and the weight of the upper one in 0..1.
    """
    centre = (np.arange(start, target if stop is None else stop) + 0.5) * (source / target) - 0.5
    centre = centre.clip(0, source - 1)
    low = np.floor(centre).astype(np.intp)
    high = np.minimum(low + 1, source - 1)
    return low, high, (centre - low).astype(np.float32)


def resize_bilinear(image: npt.NDArray[np.uint8] | Floats, height: int, width: int) -> Floats:
    """Resize with two taps per axis, half-pixel centres, no antialias: cv2's INTER_LINEAR.

    Shape: (H, W) or (H, W, C) -> (height, width) or (height, width, C), float32, not rounded.
    """
    if image.shape[:2] == (height, width):
        return image.astype(np.float32)
    low, high, blend = bilinear_taps(image.shape[0], height)
    blend = blend.reshape(-1, 1, *[1] * (image.ndim - 2))
    rows: Floats = image[low] * (1 - blend) + image[high] * blend  # (height, W, C)
    low, high, blend = bilinear_taps(image.shape[1], width)
    blend = blend.reshape(1, -1, *[1] * (image.ndim - 2))
    resized: Floats = rows[:, low] * (1 - blend) + rows[:, high] * blend  # (height, width, C)
    return resized


def resize_photo(photo: Photo, height: int, width: int, *, antialias: bool) -> Photo:
    """Resize a photo and round to whole numbers, as image libraries do.

    Args:
        photo: (H, W, 3) RGB.
        height, width: target size [px].
        antialias: average all source pixels of a target pixel. Choose True for users' large photos, False
            (two taps per axis) to follow the protocols of the benchmarks.
    """
    if photo.shape[:2] == (height, width):
        return photo
    if not antialias:
        return (resize_bilinear(photo, height, width) + 0.5).astype(np.uint8)
    from PIL import Image

    resized = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def normalise(image: npt.NDArray[np.uint8] | Floats, preprocessing: Preprocessing) -> Floats:
    """Normalise colours: ``(image / 255 - mean) / std``.

    Shape: (H, W, 3) in 0..255 -> (H, W, 3) float32.
    """
    # One colour after another, as the network reads them.
    planes = np.empty((3, *image.shape[:2]), np.float32)
    _normalise_into(planes, image, preprocessing)
    return planes.transpose(1, 2, 0)


def _normalise_into(
    planes: Floats, image: npt.NDArray[np.uint8] | Floats, preprocessing: Preprocessing
) -> None:
    """Normalise colours into existing memory. Shape: (3, H, W), (H, W, 3)."""
    mean = np.array(preprocessing.mean, np.float32)
    std = np.array(preprocessing.std, np.float32)
    for index, (scale, shift) in enumerate(zip(1 / (255 * std), mean / std, strict=True)):
        planes[index] = image[..., index]
        planes[index] *= scale
        planes[index] -= shift


def fill_windows(
    pixels: Floats,
    image: npt.NDArray[np.uint8] | Floats,
    *,
    windows: Sequence[Window],
    preprocessing: Preprocessing,
) -> None:
    """Cut and normalise windows into existing memory; the result equals `cut_windows` of `normalise`.

    Choose it to run windows one after another: no normalised copy of the whole photo is made.

    Shape: pixels (B, 3, size, size) for B windows, image (H, W, 3) in 0..255.
    """
    size = pixels.shape[2]
    for planes, window in zip(pixels, windows, strict=True):
        crop = image[window.top : window.top + window.height, window.left : window.left + window.width]
        if crop.shape[:2] == (size, size):
            _normalise_into(planes, crop, preprocessing)
        else:
            planes[:] = resize_bilinear(normalise(crop, preprocessing), size, size).transpose(2, 0, 1)


def cut_windows(image: Floats, windows: Sequence[Window], size: int) -> Floats:
    """Cut windows out of a normalised photo; stretch windows that are not square to ``size``.

    Shape: (H, W, 3) -> (B, 3, size, size).
    """
    batch = np.empty((len(windows), 3, size, size), np.float32)
    for pixels, window in zip(batch, windows, strict=True):
        crop = image[window.top : window.top + window.height, window.left : window.left + window.width]
        whole = crop.shape[:2] == (size, size)
        pixels[:] = (crop if whole else resize_bilinear(crop, size, size)).transpose(2, 0, 1)
    return batch
