"""PAMR: refine masks along the edges of the photo by repeatedly averaging neighbours of similar colour."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)  # [px] Talk2DINO's
EPSILON, SHARPNESS = 1e-8, 0.1  # of the colour differences' scale


def refine_masks(
    photo: Tensor, masks: Tensor, *, iterations: int = 10, dilations: tuple[int, ...] = DILATIONS
) -> Tensor:
    """Average each mask over the eight neighbours at each distance, weighted by similarity of colour.

    Source: Pixel-Adaptive Mask Refinement (Araslanov and Roth, CVPR 2020), visinf/1-stage-wseg,
    ``models/mods/pamr.py``; iterations and dilations as in lorebianchi98/Talk2DINO,
    ``models/dinotext/dinotext.py: apply_pamr``.

    Args:
        photo: colours in 0..255; their scale cancels out.
        masks: masks of the same size.
        iterations: number of averaging steps.
        dilations: distances of the neighbours [px].

    Shape: photo (3, H, W), masks (N, H, W) -> (N, H, W).
    """
    weights = neighbour_weights(photo, dilations)  # (8 * dilations, H, W)
    for _ in range(iterations):
        refined = torch.zeros_like(masks)
        for weight, neighbour in zip(weights, neighbours(masks, dilations), strict=True):
            refined += weight * neighbour
        masks = refined
    return masks


def neighbour_weights(photo: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Return the weight of each neighbour of each pixel; they sum to 1. Shape: (3, H, W) -> (P, H, W)."""
    around = torch.stack(list(neighbours(photo, dilations)))  # (P, 3, H, W)
    window = torch.cat([around, photo.expand(len(dilations), -1, -1, -1)])  # each kernel sees the centre too
    spread = window.std(0)  # (3, H, W)
    differences = (photo - around).abs() / (EPSILON + SHARPNESS * spread)  # (P, 3, H, W)
    return (-differences.mean(1)).softmax(0)


def neighbours(x: Tensor, dilations: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield the map shifted to each neighbour, edges repeated. Shape: (C, H, W) -> (C, H, W) each."""
    height, width = x.shape[-2:]
    for distance in dilations:
        padded = F.pad(x[None], (distance,) * 4, mode="replicate")[0]
        for down in (0, distance, 2 * distance):
            for across in (0, distance, 2 * distance):
                if (down, across) != (distance, distance):
                    yield padded[:, down : down + height, across : across + width]
