"""The cosine head, which compares features with text embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.network.config import ModelConfig

EPSILON = 1e-6  # least length of a feature vector; FP16 could not hold the usual 1e-12


class CosineHead(nn.Module):
    """Score every patch against every class: ``scale * cos(v, t) + bias``, both learned.

    Source: OVS-DINO, eq. 1; scale and bias follow TCL, the parent of the evaluation protocol.

    Args:
        config: holds the initial scale and bias.

    Shape: features (B, D, h, w), text (N, D) or (B, N, D) -> logits (B, N, h, w).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(config.logit_scale))
        self.bias = nn.Parameter(torch.tensor(config.logit_bias))

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Return the logits."""
        return self.scale * cosine(features, text) + self.bias


def unit(features: Tensor) -> Tensor:
    """Normalise feature vectors in FP32: (B, D, h, w) -> (B, D, h, w) of unit length along D."""
    return F.normalize(features.float(), dim=1, eps=EPSILON)


def cosine(features: Tensor, text: Tensor) -> Tensor:
    """Return the cosine of every patch with every class (eq. 1).

    Shape: features (B, D, h, w), text (N, D) or (B, N, D) -> (B, N, h, w) in (-1, 1).
    """
    directions = F.normalize(text.float(), dim=-1)
    if directions.ndim == 2:
        directions = directions.expand(features.shape[0], -1, -1)  # (B, N, D)
    return torch.einsum("bdhw,bnd->bnhw", unit(features), directions)
