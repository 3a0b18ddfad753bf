"""SSD's colour augmentation: four changes, each with probability 0.5."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as colours

from ovsdino_runtime.geometry.types import Photo

BRIGHTNESS = 32  # most that is added to all colours
REACH = 0.5  # of the factors on contrast and saturation, around 1
HUE = 18 / 180  # most turn of the hue, in turns


def jitter_as_ssd(photo: Photo, generator: np.random.Generator) -> Photo:
    """Change brightness, then contrast before or after saturation and hue: (S, S, 3).

    Contrast multiplies the colours themselves, as SSD does.

    Source: SSD, section 3.6; detectron2, ``ColorAugSSDTransform``, which CAT-Seg trains with.
    """
    pixels = photo.astype(np.float32)
    brighter, first, *chances = generator.random(5) < 0.5
    if brighter:
        pixels = pixels + generator.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast = generator.uniform(1 - REACH, 1 + REACH) if chances[0] else 1.0
    image = _image(pixels * (contrast if first else 1.0))
    if chances[1]:
        image = colours.adjust_saturation(image, generator.uniform(1 - REACH, 1 + REACH))
    if chances[2]:
        image = colours.adjust_hue(image, generator.uniform(-HUE, HUE))
    return np.asarray(image if first else _image(np.asarray(image, np.float32) * contrast))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
