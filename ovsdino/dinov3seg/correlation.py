"""Correlation of patches with class embeddings, and the choice of classes to refine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.vlm import take_half
from ovsdino.network.head import unit


def text_halves(text: Tensor, config: Dinov3segConfig) -> Tensor:
    """Split class embeddings into the configured halves, each of unit length.

    Shape: (N, text width) -> (N, P, D), P the number of halves.
    """
    halves = [take_half(text, config.vlm, half) for half in config.halves]
    return F.normalize(torch.stack(halves, dim=1).float(), dim=-1)


def correlate(patches: Tensor, halves: Tensor) -> Tensor:
    """Return the cosine of every patch with every class, one channel per half.

    Source: dinov3.seg, section 3 (both embeddings are correlated).

    Shape: patches (B, D, h, w), halves (N, P, D) of unit length -> (B, N, P, h, w) in (-1, 1).
    """
    return torch.einsum("bdhw,npd->bnphw", unit(patches), halves)


def best_classes(costs: Tensor, present: Tensor, max_count: int) -> Tensor:
    """Choose the classes to refine: those with the highest cosine at any patch, in either half.

    Source: CAT-Seg, ``Aggregator.forward``.

    Args:
        costs: cosines of :func:`correlate`.
        present: False marks padding classes.
        max_count: largest number of classes to choose.

    Shape: costs (B, N, P, h, w), present (N,) bool -> class indices (B, min(max_count, N)), unordered.
    """
    score = costs.flatten(2).amax(-1).masked_fill(~present, -torch.inf)  # (B, N)
    return score.topk(min(max_count, score.shape[1]), dim=1, sorted=False).indices


def take_classes(values: Tensor, chosen: Tensor) -> Tensor:
    """Select the chosen classes of each photo. Shape: values (B, N, ...), chosen (B, K) -> (B, K, ...)."""
    index = chosen.reshape(*chosen.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def put_classes(values: Tensor, chosen: Tensor, *, classes: int, absent: float) -> Tensor:
    """Undo :func:`take_classes`; other classes get ``absent``. Shape: (B, K, ...), (B, K) -> (B, N, ...)."""
    index = chosen.reshape(*chosen.shape, *[1] * (values.ndim - 2)).expand_as(values)
    whole = values.new_full((values.shape[0], classes, *values.shape[2:]), absent)
    return whole.scatter(1, index, values)
