"""The training square: drawn once, then cut in the same way from photo, masks and boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as colours

from ovsdino.training.data.ssd_colours import jitter_as_ssd
from ovsdino.training.data_recipe import DataRecipe
from ovsdino_runtime.geometry.types import Photo

Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Square:
    """A square crop of a photo, optionally mirrored. It lies inside the photo, so nothing is padded."""

    left: float  # [px]
    top: float  # [px]
    side: float  # [px]
    mirrored: bool = False


def draw_square(height: int, width: int, *, recipe: DataRecipe, generator: np.random.Generator) -> Square:
    """Draw a random square of a photo.

    Source: OVS-DINO does not describe its augmentation; both methods are our reconstruction.

    Args:
        height, width: size of the photo [px].
        recipe: cropping method, its limits, and the probability of a mirror image.
        generator: source of randomness.
    """
    short = min(height, width)
    if recipe.crop == "zoom":
        zoomed = math.exp(generator.uniform(math.log(recipe.size), math.log(recipe.largest)))
        side = min(short, recipe.size / zoomed * short)  # exp(log(x)) may be a hair below x
    else:
        side = math.sqrt(generator.uniform(*recipe.crop_scale)) * short
    left, top = generator.uniform(0, width - side), generator.uniform(0, height - side)
    return Square(left, top, side, mirrored=bool(generator.random() < recipe.flip))


def cut_photo(photo: Photo, square: Square, size: int) -> Photo:
    """Cut a square from a photo and resize it with antialias: (H, W, 3) -> (size, size, 3)."""
    box = (square.left, square.top, square.left + square.side, square.top + square.side)
    cut = np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.BILINEAR, box=box))
    return cut[:, ::-1] if square.mirrored else cut


def cut_mask(mask: Mask, square: Square, size: int) -> Mask:
    """Cut a square from a mask and resize it by nearest neighbour: (H, W) -> (size, size)."""
    centres = (np.arange(size) + 0.5) * (square.side / size)
    rows = np.minimum((square.top + centres).astype(np.intp), mask.shape[0] - 1)
    columns = np.minimum((square.left + centres).astype(np.intp), mask.shape[1] - 1)
    cut: Mask = mask[rows[:, None], columns[::-1] if square.mirrored else columns]
    return cut


def cut_box(box: Box, square: Square) -> tuple[Box, float]:
    """Convert a box [px] to coordinates of the square, in 0..1.

    Returns:
        The part of the box inside the square, and its share of the box's area.
    """
    left, top, right, bottom = box
    right_edge, bottom_edge = square.left + square.side, square.top + square.side
    inside = max(0.0, min(right, right_edge) - max(left, square.left)) * max(
        0.0, min(bottom, bottom_edge) - max(top, square.top)
    )
    x = [min(1.0, max(0.0, (v - square.left) / square.side)) for v in (left, right)]
    y = [min(1.0, max(0.0, (v - square.top) / square.side)) for v in (top, bottom)]
    if square.mirrored:
        x = [1 - x[1], 1 - x[0]]
    return (x[0], y[0], x[1], y[1]), inside / max(1e-9, (right - left) * (bottom - top))


def jitter_colours(photo: Photo, recipe: DataRecipe, generator: np.random.Generator) -> Photo:
    """Change brightness, contrast, saturation and hue by random amounts: (S, S, 3).

    Source: the random order is ours; ``ssd`` follows SSD, as in detectron2's ``ColorAugSSDTransform``.
    """
    if recipe.colours == "ssd":
        return jitter_as_ssd(photo, generator)
    changes = (
        colours.adjust_brightness,
        colours.adjust_contrast,
        colours.adjust_saturation,
        colours.adjust_hue,
    )
    image = Image.fromarray(photo)  # Pillow's hue takes a tenth of the time of torch's
    for index in generator.permutation(len(changes)).tolist():
        if reach := recipe.jitter[index]:
            centre = 0.0 if changes[index] is colours.adjust_hue else 1.0
            image = changes[index](image, centre + generator.uniform(-reach, reach))
    return np.asarray(image)


def normalise_pixels(photo: Photo, mean: Colour, std: Colour) -> Tensor:
    """Normalise colours: (S, S, 3) -> (3, S, S) float32."""
    scale = torch.tensor(std).mul(255)[:, None, None]
    pixels = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))
    return pixels / scale - (torch.tensor(mean) / torch.tensor(std))[:, None, None]
