"""The fused kernels in plain torch: they compute in FP32 and return the type of the first argument."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # of the group's variance; torch's default, which the network keeps
MAX_CLASSES = 65535  # labels are uint16


class Side(NamedTuple):
    """The resampling of one axis, from the photo to all windows.

    Pixel ``n`` of the windows blends pixels ``lows[n]`` and ``lows[n] + 1`` of the resized photo, with weight
    ``shares[n]`` on the latter. Pixel ``m`` of the resized photo is the sum of K pixels of the photo from
    ``starts[m]`` on, with weights ``weights[m]``.
    """

    lows: Tensor
    shares: Tensor
    starts: Tensor
    weights: Tensor


def depthwise_block(
    x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, groups: int, stride: int
) -> Tensor:
    """Filter each channel separately, normalise, activate: ``gelu(group_norm(depthwise_conv_3x3(x)))``.

    A group that contains a NaN or an infinity becomes NaN; other groups are not affected.

    Args:
        x: features.
        weight: one filter per channel.
        gamma, beta: scale and shift of the normalisation.
        groups: a divisor of C.
        stride: 1, or 2 to halve the resolution.

    Shape: x (B, C, h, w), weight (C, 1, 3, 3), gamma and beta (C,) -> (B, C, ceil(h / stride), ...).
    """
    filtered = F.conv2d(x.float(), weight.float(), stride=stride, padding=1, groups=len(weight))
    return F.gelu(F.group_norm(filtered, groups, gamma.float(), beta.float(), EPSILON)).to(x.dtype)


def preservation_gate(x: Tensor, modulation: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """Modulate features: ``x + alpha * x * sigmoid(modulation + residual)``. A NaN stays where it is.

    Args:
        x: features.
        modulation, residual: the two parts of the gate's input.
        alpha: strength of the gate, one value for all channels or one per channel.

    Shape: x, modulation, residual (B, C, h, w), alpha (1,) or (1, C, 1, 1) -> (B, C, h, w).
    """
    gate = (modulation.float() + residual.float()).sigmoid()  # in (0, 1)
    return (x.float() + alpha.float() * x.float() * gate).to(x.dtype)


def upsample_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """Upsample scores bilinearly (half-pixel centres) and return the best class of each pixel.

    Of equal scores the first class wins. A NaN never wins; if all scores are NaN the label is 0.

    Args:
        logits: finite scores of at most `MAX_CLASSES` classes at the nodes of the coarse grid.
        height, width: size of the result [px].

    Shape: (N, h, w) -> (height, width) uint16.
    """
    best = torch.full((height, width), float("-inf"), device=logits.device)
    labels = torch.zeros((height, width), dtype=torch.int32, device=logits.device)
    for index, scores in enumerate(logits.float()):
        fine = F.interpolate(scores[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        better = fine > best  # False for a NaN
        best = torch.where(better, fine, best)
        labels = torch.where(better, index, labels)
    return labels.to(torch.uint16)


def photo_windows(
    photo: Tensor, rows: Side, columns: Side, colours: Tensor, *, size: int, antialias: bool
) -> Tensor:
    """Resize a photo, round it, cut windows, stretch short ones, and normalise the colours.

    Args:
        photo: RGB in 0..255.
        rows, columns: resampling of both axes.
        colours: three slopes, then three shifts.
        size: S, the side of a window [px].
        antialias: round after each axis, as Pillow does; else once after both.

    Shape: (H, W, 3) uint8 -> (B, 3, S, S), windows in row-major order.
    """
    narrow = _weigh(photo.float(), columns, 1)  # (H, W', 3)
    narrow = (narrow + 0.5).floor() if antialias else narrow
    resized = (_weigh(narrow, rows, 0) + 0.5).floor()  # (H', W', 3)
    stretched = _stretch(_stretch(resized, rows, 0), columns, 1)  # (down * S, across * S, 3)
    colourful = stretched * colours[:3] + colours[3:]
    tiles = colourful.reshape(len(rows.lows) // size, size, len(columns.lows) // size, size, 3)
    return tiles.permute(0, 2, 4, 1, 3).reshape(-1, 3, size, size)


def _weigh(image: Tensor, side: Side, axis: int) -> Tensor:
    image = image.movedim(axis, -1)
    taps = torch.arange(side.weights.shape[1])
    return (image[..., side.starts[:, None] + taps] * side.weights).sum(-1).movedim(-1, axis)


def _stretch(image: Tensor, side: Side, axis: int) -> Tensor:
    image = image.movedim(axis, -1)
    high = (side.lows + 1).clamp(max=image.shape[-1] - 1)
    blended = image[..., side.lows] * (1 - side.shares) + image[..., high] * side.shares
    return blended.movedim(-1, axis)


def cosine_scores(features: Tensor, text: Tensor) -> Tensor:
    """Return the products of positions and classes. Shape: (B, D, h, w), (N, D) -> (N, B, h, w)."""
    return torch.einsum("bdhw,nd->nbhw", features, text)


def merge_argmax(
    scores: Tensor,
    row_nodes: Tensor,
    row_weights: Tensor,
    column_nodes: Tensor,
    column_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Interpolate the scores of all windows over a photo, tile by tile; return the best class per pixel.

    Of equal scores the first class wins. A NaN never wins; if all scores are NaN the label is 0.

    Args:
        scores: scores of each class at all nodes.
        row_nodes: offsets of the K node rows of each band of pixel rows; a node lies at the sum of its row's
            and its column's offset.
        row_weights: weights of the band's nodes for each pixel row.
        column_nodes, column_weights: the same for columns.

    Shape: (N, nodes), (bands, K), (H, K), (strips, K'), (W, K') -> best (H, W), labels (H, W) int64.
    """
    height, width = len(row_weights) // len(row_nodes), len(column_weights) // len(column_nodes)
    best, labels = [], []
    for band, rows in zip(row_nodes, torch.split(row_weights, height), strict=True):
        tiles = []
        for strip, columns in zip(column_nodes, torch.split(column_weights, width), strict=True):
            nodes = scores[:, band[:, None] + strip[None, :]]  # (N, K, K')
            fine = (rows @ nodes @ columns.T).nan_to_num(nan=float("-inf"))  # (N, tile's H, tile's W)
            tiles.append(fine.max(dim=0))
        best.append(torch.cat([tile.values for tile in tiles], dim=1))
        labels.append(torch.cat([tile.indices for tile in tiles], dim=1))
    return torch.cat(best), torch.cat(labels)
