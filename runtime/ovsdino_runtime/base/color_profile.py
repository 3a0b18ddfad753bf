"""Convert the colours of a photo with an embedded ICC profile to sRGB."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

CONVERTIBLE = ("L", "RGB", "CMYK")
MAX_DEVIATION = 2  # of 255: a profile that changes colours by less counts as sRGB


def to_srgb(image: "Image", profile: bytes | None) -> "tuple[Image, tuple[str, ...]]":
    """Convert an image of mode L, RGB or CMYK to sRGB; profiles of sRGB or plain grey change nothing.

    Returns:
        The image, and a note if the profile cannot be used.
    """
    if not profile or image.mode not in CONVERTIBLE:
        return image, ()
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.buildTransform(source, target, image.mode, "RGB")
        if image.mode != "CMYK" and _changes_little(image.mode, transform):
            return image, ()
        converted = ImageCms.applyTransform(image, transform)
    except Exception as error:  # noqa: BLE001 - a damaged profile, or one for other pixels: they stay as they are
        reason = " ".join(str(error).split()) or type(error).__name__
        return image, (f"its colour profile cannot be used ({reason:.80}): read as sRGB",)
    return (image, ()) if converted is None else (converted, ())


def _changes_little(mode: str, transform: object) -> bool:
    """Tell whether the transform leaves a grid of sample colours almost unchanged."""
    from PIL import Image, ImageCms

    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    grid = Image.fromarray(colours if mode == "RGB" else steps[None])
    changed = ImageCms.applyTransform(grid, transform)  # type: ignore[arg-type]
    difference = np.abs(np.asarray(changed, np.int16) - np.asarray(grid.convert("RGB"), np.int16))
    return int(difference.max()) <= MAX_DEVIATION
