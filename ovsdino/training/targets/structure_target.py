"""Targets for the output of the structure-aware encoder: features of SAM or HED, or image gradients."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.training.data.batch import Batch
from ovsdino.training.data_recipe import DataRecipe
from ovsdino_runtime.base.errors import OvsdinoError

ORIENTATIONS = 8  # bins of an edge's direction, 0..180 degrees


class TargetError(OvsdinoError):
    """The structural target of the recipe does not match the model or the batch."""


def structure_target(
    batch: Batch, recipe: DataRecipe, *, channels: int, size: tuple[int, int]
) -> Tensor | None:
    """Return the target of a batch on the grid of the SAE's output; None if the recipe has none.

    ``sam`` has as many channels as the SAE's output (OVS-DINO, section 3). ``hed`` and ``gradients`` are
    ours, for models without SAM. ``hed`` is projected to the channels of the output if there are fewer. The
    channels of ``gradients`` are compared with the first channels of the output; the others stay free.

    Args:
        batch: a batch on the model's device.
        recipe: names the target.
        channels: S, the number of channels of the SAE's output.
        size: rows and columns of the SAE's output, 2h and 2w.

    Raises:
        TargetError: the teacher's features are missing, or SAM's have another width.

    Shape: -> (B, S or fewer, 2h, 2w).
    """
    if recipe.structure_target == "none":
        return None
    if recipe.structure_target == "gradients":
        return orientation_energy(batch.pixels, size)
    if recipe.structure_target == "hed":
        return hed_target(batch.teacher, channels)
    if batch.teacher is None:
        raise TargetError(
            "structure_target is 'sam', but the batch has no SAM features: "
            "give SAM's checkpoint or a folder of cached features, or train without structural alignment"
        )
    if batch.teacher.shape[1] != channels:
        raise TargetError(
            f"SAM's features have {batch.teacher.shape[1]} channels, the model's structure_channels are "
            f"{channels}; make them equal, or set structure_target to 'gradients'"
        )
    teacher = batch.teacher.float()
    if teacher.shape[-2:] == size:
        return teacher
    return F.interpolate(teacher, size, mode="bilinear", align_corners=False)


def hed_target(features: Tensor | None, channels: int) -> Tensor:
    """Project HED's features to fewer channels, where the SAE's output has fewer.

    The projection is fixed and orthonormal: it nearly keeps the angles between cells.

    Raises:
        TargetError: there are none.

    Shape: features (B, 256, 2h, 2w) -> (B, min(256, channels), 2h, 2w).
    """
    if features is None:
        raise TargetError("structure_target is 'hed', but the batch has no HED features: give --hed FILE")
    if features.shape[1] <= channels:
        return features
    basis = orthonormal_rows(channels, features.shape[1]).to(features)
    return torch.einsum("sc,bchw->bshw", basis, features)


@lru_cache
def orthonormal_rows(rows: int, columns: int) -> Tensor:
    """Draw orthonormal rows, always the same: (rows, columns), FP32."""
    drawn = torch.randn(columns, rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(drawn).Q.T.float()
    return basis


@torch.no_grad()
def orientation_energy(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the edge strength of each cell in each direction, normalised for contrast.

    The gradient of the strongest colour channel votes with its magnitude for the two nearest of ORIENTATIONS
    directions. Votes are averaged over cells and divided by the norm of the cell's 3x3 neighbourhood.

    Source: ours, after Dalal and Triggs, "Histograms of oriented gradients" (2005).

    Args:
        pixels: the squares.
        size: rows and columns of the target.

    Shape: pixels (B, 3, H, W) -> (B, ORIENTATIONS, rows, columns), not negative.
    """
    padded = F.pad(pixels.float(), (1, 1, 1, 1), mode="replicate")
    dx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2  # (B, 3, H, W)
    dy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    strength, strongest = (dx.square() + dy.square()).max(1, keepdim=True)  # (B, 1, H, W)
    dx, dy = dx.gather(1, strongest), dy.gather(1, strongest)
    angle = torch.atan2(dy, dx) % math.pi / (math.pi / ORIENTATIONS)  # (B, 1, H, W) in bins
    centres = torch.arange(ORIENTATIONS, device=pixels.device)[:, None, None]
    distance = (angle - centres).abs()
    share = (1 - torch.minimum(distance, ORIENTATIONS - distance)).clamp(min=0)  # (B, O, H, W)
    cells = F.adaptive_avg_pool2d(share * strength.sqrt(), size)  # (B, O, rows, columns)
    energy = F.avg_pool2d(cells.square().sum(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    return cells / (energy + 1e-4).sqrt()
