"""Restate SAM's image encoder for one image size, with equal results."""

from __future__ import annotations

import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

from ovsdino.dinov3seg.semantic_prior import PATCH, Prior, SemanticPrior
from ovsdino_export.rewrite.rewrite import adopt, restate


class FixedPrior(SemanticPrior):
    """The Semantic Prior Encoder at its own size, with precomputed positions.

    Shape: as its parent.
    """

    placed: Tensor

    def __init__(self, prior: SemanticPrior) -> None:
        adopt(self, restate(prior))
        grid = self.config.size // PATCH
        self.register_buffer("placed", prior.positions((grid, grid)).detach().clone())
        for block in self.encoder.blocks:
            window = block.window_size
            block.attn = FixedAttention(block.attn, window or grid)
        self.encoder.neck = nn.Sequential(
            *(ChannelNorm(part) if isinstance(part, LayerNorm2d) else part for part in self.encoder.neck)
        )
        self.encoder.pos_embed = None

    def forward(self, image: Tensor) -> Prior:
        """Resize the image to SAM's size and encode it."""
        size = (self.config.size, self.config.size)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        return self.encode(image)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding: -> (1, g, g, W)."""
        if grid != tuple(self.placed.shape[1:3]):
            raise ValueError(f"the exported grid is {tuple(self.placed.shape[1:3])} patches, got {grid}")
        return self.placed


class FixedAttention(nn.Module):
    """SAM's attention on squares of one size, written out, with constant relative positions.

    Source: segment-anything, ``image_encoder.py``, ``Attention``.

    Shape: x (B, h, w, C) -> (B, h, w, C).
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, attention: Attention, side: int) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scale = attention.num_heads, float(attention.scale)
        rows = get_rel_pos(side, side, attention.rel_pos_h)  # (h, h, d)
        columns = get_rel_pos(side, side, attention.rel_pos_w)  # (w, w, d)
        self.register_buffer("rows", rows.detach().transpose(1, 2).contiguous())  # (h, d, h)
        self.register_buffer("columns", columns.detach().transpose(1, 2).contiguous())  # (w, d, w)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        batch, height, width, channels = x.shape
        split = (batch, height * width, self.heads, channels // self.heads)
        q, k, v = (part.reshape(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        scores = ((q * self.scale) @ k.transpose(-2, -1)).float()  # (B, heads, L, L)
        placed = q.reshape(batch, self.heads, height, width, -1)  # (B, heads, h, w, d)
        down = (placed @ self.rows).float()  # (B, heads, h, w, h)
        across = (placed.transpose(2, 3) @ self.columns).float().transpose(2, 3)  # (B, heads, h, w, w)
        scores = scores.reshape(batch, self.heads, height, width, height, width)
        scores = scores + down[..., None] + across[..., None, :]
        weights = scores.reshape(batch, self.heads, height * width, -1).softmax(dim=-1).to(v.dtype)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, height, width, channels)
        return self.proj(mixed)  # type: ignore[no-any-return]


class ChannelNorm(nn.Module):
    """SAM's ``LayerNorm2d`` as a LayerNorm over channels, which engines know. Shape: (B, C, h, w), kept."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(len(norm.weight), eps=norm.eps)
        self.norm.weight, self.norm.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
