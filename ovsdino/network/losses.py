"""The losses: alignment with SAM's features, Dice and binary cross-entropy against pseudo-masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over all valid pixels and classes.

    Source: OVS-DINO, eq. 15.

    Shape: logits, masks and valid (B, N, H, W); masks in {0, 1}; valid in {0, 1} -> scalar.
    """
    loss = F.binary_cross_entropy_with_logits(logits, masks, reduction="none") * valid
    return loss.sum() / valid.sum().clamp(min=1)


def dice(logits: Tensor, masks: Tensor, valid: Tensor, *, smoothing: float = 1.0) -> Tensor:
    """Return one minus the mean Dice coefficient over the classes that a photo contains.

    Absent classes are not included, because an empty mask has no overlap; the cross-entropy covers them.

    Source: OVS-DINO, eq. 15; positives only and the smoothing are our reconstruction.

    Args:
        logits, masks, valid: see Shape.
        smoothing: added to numerator and denominator [px]; bounds the gradients of small masks.

    Shape: logits, masks and valid (B, N, H, W); masks in {0, 1}; valid in {0, 1} -> scalar.
    """
    present = masks.flatten(2).any(-1)  # (B, N)
    p = (logits.sigmoid() * valid)[present]  # (P, H, W)
    target = (masks * valid)[present]
    overlap = 2 * (p * target).sum((1, 2)) + smoothing
    total = p.sum((1, 2)) + target.sum((1, 2)) + smoothing
    return (1 - overlap / total).sum() / max(len(p), 1)


def cosine_alignment(structure: Tensor, target: Tensor) -> Tensor:
    """Return one minus the mean cosine between two feature maps, cell by cell.

    Source: OVS-DINO, eq. 10.

    Shape: structure and target (B, D, h, w) -> scalar.
    """
    return 1 - F.cosine_similarity(structure.float(), target.float(), dim=1).mean()


def mse_alignment(structure: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared distance between two feature maps' cells, divided by their width D.

    Source: OVS-DINO, eq. 11.

    Shape: structure and target (B, D, h, w) -> scalar.
    """
    return F.mse_loss(structure.float(), target.float())
