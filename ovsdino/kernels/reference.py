"""What the fused kernels compute, in plain torch: FP32 inside, the type of the first argument outside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # of the group's variance; torch's default, which the network keeps
MOST_CLASSES = 65535  # labels are uint16


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
