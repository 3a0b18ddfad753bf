"""The fused kernels in plain torch: they compute in FP32 and return the type of the first argument."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # of the group's variance; torch's default, which the network keeps
MAX_CLASSES = 65535  # labels are uint16


class Side(NamedTuple):
    """How the rows, or the columns, of all windows come from a photo's.

    Value ``n`` of a side is a blend of two of the resized photo's, ``lows[n]`` and the next one, with the
    share ``shares[n]`` of the next. Value ``m`` of the resized photo is the sum of K of the photo's from
    ``starts[m]`` on, with the weights ``weights[m]``.
    """

    lows: Tensor
    shares: Tensor
    starts: Tensor
    weights: Tensor


def depthwise_block(
    x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, groups: int, stride: int
) -> Tensor:
    """Filter each channel by itself, normalise, activate: ``gelu(group_norm(depthwise_conv_3x3(x)))``.

    A group with a NaN or an infinity in it becomes NaN; others do not change.

    Args:
        x: features.
        weight: one filter a channel.
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
        alpha: strength of the gate, one for all or one a channel.

    Shape: x, modulation, residual (B, C, h, w), alpha (1,) or (1, C, 1, 1) -> (B, C, h, w).
    """
    gate = (modulation.float() + residual.float()).sigmoid()  # in (0, 1)
    return (x.float() + alpha.float() * x.float() * gate).to(x.dtype)


def upsample_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """Upsample scores bilinearly (half-pixel centres) and name each pixel's best class, one class at a time.

    Of equal scores the first class wins. A NaN never wins; where there is nothing else the label is 0.

    Args:
        logits: finite scores of the classes, at most `MOST_CLASSES`, at the coarse grid's nodes.
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
    """Resize a photo to whole numbers, cut its windows, stretch those that are short, normalise the colours.

    Args:
        photo: RGB in 0..255.
        rows, columns: how each row and column of all windows comes about.
        colours: three slopes, then three shifts.
        size: S, a window's side [px].
        antialias: round after each side, as Pillow does; else after both.

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
    """Compare every position with every class. Shape: (B, D, h, w), (N, D) -> (N, B, h, w)."""
    return torch.einsum("bdhw,nd->nbhw", features, text)


def merge_argmax(
    scores: Tensor,
    row_nodes: Tensor,
    row_weights: Tensor,
    column_nodes: Tensor,
    column_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Spread the scores of all windows over a photo, tile by tile, and find each pixel's best class.

    Of equal scores the first class wins. A NaN never wins; where there is nothing else the label is 0.

    Args:
        scores: of each class at all nodes.
        row_nodes: for each band of rows, where its K rows of nodes begin; a node lies at the sum of both.
        row_weights: for each row of pixels, the weights of its band's nodes.
        column_nodes, column_weights: likewise.

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
