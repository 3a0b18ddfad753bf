"""The Class Refinement Block: attention across classes at each pixel."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.guided_linear import GuidedLinear

EPSILON = 1e-6


def weighted_attention(
    query: Tensor, key: Tensor, *, value: Tensor, weights: Tensor, kind: Literal["linear", "full"]
) -> Tensor:
    """Attention in which each key counts ``weights`` times: 0, 1, or as often as a padding token repeats.

    ``linear`` replaces the softmax by the feature map ``elu + 1``; its cost is linear in N.

    Source: "Transformers are RNNs", eq. 5; CAT-Seg, ``LinearAttention`` and ``FullAttention``.

    Shape: query (..., N, d), key and value (..., S, d), weights (..., S), not all 0 -> (..., N, d).
    """
    if kind == "full":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=weights.log()[..., None, :])
    shares = (weights / weights.sum(-1, keepdim=True))[..., None]  # sums stay near 1: no overflow in FP16
    query, key = F.elu(query) + 1, (F.elu(key) + 1) * shares
    total = query @ key.sum(-2, keepdim=True).transpose(-2, -1)  # (..., N, 1)
    return query @ (key.transpose(-2, -1) @ value) / (total + EPSILON)


class ClassRefinement(nn.Module):
    """Attention across classes at each pixel, guided by text, over a fixed number of tokens.

    CAT-Seg pads to 256 classes with copies of one learned token, so that attention always runs over the same
    number of tokens. Because the copies are equal, a single token with their weight gives the same result.

    Source: dinov3.seg, section 3; the inside follows CAT-Seg's ``ClassTransformerLayer``, our reconstruction.

    Args:
        config: widths, heads, pooling, padding.

    Shape: x (B, N, C, h, w), guidance (B, N, G), present (B, N) bool -> (B, N, C, h, w).
    """

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.late_mlp * config.width
        self.heads, self.kind = config.late_heads, config.class_attention
        self.pool, self.pad_length = config.class_pool, config.pad_length
        self.query = GuidedLinear(width, config.guidance_width)
        self.key = GuidedLinear(width, config.guidance_width)
        self.value = nn.Linear(width, width)
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.padding = nn.Parameter(torch.zeros(width))
        self.padding_guidance = nn.Parameter(torch.zeros(config.guidance_width))

    def forward(self, x: Tensor, guidance: Tensor, present: Tensor) -> Tensor:
        """Refine the classes at each pixel; in training at a lower resolution."""
        batch, classes = x.shape[:2]
        pool = self.pool if self.training else 1
        small = F.avg_pool2d(x.flatten(0, 1), pool) if pool > 1 else x.flatten(0, 1)  # (B * N, C, h', w')
        size = small.shape[-2:]
        y = torch.unflatten(small, 0, (batch, classes)).flatten(3).permute(0, 3, 1, 2)  # (B, L, N, C)
        y = self._refine(y, guidance, present)
        y = torch.unflatten(y.permute(0, 2, 3, 1), 3, size).flatten(0, 1)  # (B * N, C, h', w')
        if pool > 1:
            y = F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=True)
        return x + torch.unflatten(y, 0, (batch, classes))

    def _refine(self, y: Tensor, guidance: Tensor, present: Tensor) -> Tensor:
        """Append the padding token, attend, feed forward, remove the token. Shape: (B, L, N, C), kept."""
        y = torch.cat([y, self.padding.expand(*y.shape[:2], 1, -1)], dim=2)  # (B, L, N + 1, C)
        guidance = torch.cat([guidance, self.padding_guidance.expand(len(y), 1, -1)], dim=1)[:, None]
        counts = present.to(y.dtype)  # (B, N)
        copies = (self.pad_length - counts.sum(1, keepdim=True)).clamp(min=0)  # (B, 1)
        weights = torch.cat([counts, copies], dim=1)[:, None, None]  # (B, 1, 1, N + 1)
        normal = self.attention_norm(y)
        parts = (self.query(normal, guidance), self.key(normal, guidance), self.value(normal))
        q, k, v = (torch.unflatten(part, -1, (self.heads, -1)).transpose(2, 3) for part in parts)
        mixed = weighted_attention(q, k, value=v, weights=weights, kind=self.kind)  # (B, L, heads, N + 1, d)
        y = y + mixed.transpose(2, 3).flatten(3)
        y = y + cast(Tensor, self.feed(self.feed_norm(y)))
        return y[:, :, :-1]
