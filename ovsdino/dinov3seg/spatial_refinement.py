"""The Spatial Refinement Block: window attention on each class's cost map, guided by SAM."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.guided_linear import GuidedLinear


class WindowAttention(nn.Module):
    """Self-attention within (shifted) windows of a map; the guidance enters only queries and keys.

    Maps whose size is not a multiple of the window are padded, and the padding is masked. Without guidance
    and padding this is Swin's W-MSA and SW-MSA without position bias.

    Source: CAT-Seg, ``SwinTransformerBlock``.

    Shape: x (B, N, h, w, C), guidance (B, 1, h, w, G) -> (B, N, h, w, C).
    """

    def __init__(self, config: Dinov3segConfig, *, guidance: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = config.late_heads, config.late_window, shifted
        self.query = GuidedLinear(config.width, guidance)
        self.key = GuidedLinear(config.width, guidance)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Attend."""
        height, width = x.shape[2:4]
        window, shift = self.place(height, width)
        q, k, v = (
            self._split(cut_windows(mapped, window, shift))
            for mapped in (self.query(x, guidance), self.key(x, guidance), self.value(x))
        )  # each (B, N, n, heads, a, d)
        mixed = self.attend(q, k, v=v, mask=self.attention_mask(height, width).to(x.device))
        joined = mixed.transpose(-3, -2).flatten(-2)  # (B, N, n, a, C)
        return cast(Tensor, self.out(join_windows(joined, (height, width), window=window, shift=shift)))

    def place(self, height: int, width: int) -> tuple[int, int]:
        """Return the window's side and the shift for a map of a given size.

        As in CAT-Seg, a map that fits one window is not shifted.
        """
        window = min(self.window, height, width)
        return window, window // 2 if self.shifted and min(height, width) > self.window else 0

    def attention_mask(self, height: int, width: int) -> Tensor:
        """Return the attention mask for a map of a given size. Shape: (n, 1, a, a) bool."""
        window, shift = self.place(height, width)
        return window_mask(height, width, window=window, shift=shift)[:, None]

    def attend(self, q: Tensor, k: Tensor, *, v: Tensor, mask: Tensor) -> Tensor:
        """Attend within windows: q, k, v (B, N, n, heads, a, d), mask (n, 1, a, a) -> as q."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(-3, -2)


def cut_windows(x: Tensor, window: int, shift: int) -> Tensor:
    """Pad to whole windows, shift up and left, and cut. Shape: (B, N, h, w, C) -> (B, N, n, a, C)."""
    height, width = x.shape[2:4]
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    if shift:
        x = x.roll((-shift, -shift), dims=(2, 3))
    x = torch.unflatten(x, 3, (-1, window))  # (B, N, padded h, columns, window, C)
    x = torch.unflatten(x, 2, (-1, window))  # (B, N, rows, window, columns, window, C)
    return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def join_windows(x: Tensor, size: tuple[int, int], *, window: int, shift: int) -> Tensor:
    """Undo :func:`cut_windows`. Shape: (B, N, n, a, C) -> (B, N, h, w, C)."""
    rows, columns = (-(-length // window) for length in size)
    x = torch.unflatten(x, 3, (window, window))  # (B, N, n, window, window, C)
    x = torch.unflatten(x, 2, (rows, columns)).transpose(3, 4)  # (B, N, rows, window, columns, window, C)
    x = x.flatten(4, 5).flatten(2, 3)  # (B, N, padded h, padded w, C)
    if shift:
        x = x.roll((shift, shift), dims=(2, 3))
    return x[:, :, : size[0], : size[1]]


def window_mask(height: int, width: int, *, window: int, shift: int) -> Tensor:
    """Return which positions attend to each other: not across the edge of the shift, nor to padding.

    Shape: (n, a, a) bool.
    """
    rows, columns = (_region(length, window, shift) for length in (height, width))
    regions = (rows[:, None] * 3 + columns)[None, None, :, :, None]  # 9 kinds, (1, 1, h, w, 1)
    cut = cut_windows(regions, window, shift=0)[0, 0, :, :, 0]  # (n, a)
    return cut[:, :, None] == cut[:, None, :]


def _region(length: int, window: int, shift: int) -> Tensor:
    padded = length + -length % window
    places = torch.arange(padded).roll(-shift)  # which place stands where after the shift
    wrapped = (torch.arange(padded) >= padded - shift).long()
    return torch.where(places < length, wrapped, 2)


class SwinBlock(nn.Module):
    """Pre-norm window attention and a feed-forward part. Shape: x (B, N, h, w, C), kept."""

    def __init__(self, config: Dinov3segConfig, *, guidance: int, shifted: bool) -> None:
        super().__init__()
        hidden = config.late_mlp * config.width
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = WindowAttention(config, guidance=guidance, shifted=shifted)
        self.feed_norm = nn.LayerNorm(config.width)
        self.feed = nn.Sequential(nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width))

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Attend within windows, then apply the feed-forward part."""
        x = x + self.attention(self.attention_norm(x), guidance)
        return x + cast(Tensor, self.feed(self.feed_norm(x)))


class SpatialRefinement(nn.Module):
    """Two Swin blocks, the second one shifted, applied to each class independently.

    Source: dinov3.seg, section 3; inside as CAT-Seg's ``SwinTransformerBlockWrapper``, our reconstruction.

    Args:
        config: widths, heads, window.

    Shape: x (B, N, C, h, w), guidance (B, G, h, w) or None -> (B, N, C, h, w).
    """

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        width = config.guidance_width if config.prior is not None else 0
        self.guidance_norm = nn.LayerNorm(width) if width else None
        self.plain = SwinBlock(config, guidance=width, shifted=False)
        self.shifted = SwinBlock(config, guidance=width, shifted=True)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Refine the map of each class."""
        if self.guidance_norm is not None and guidance is not None:
            guidance = self.guidance_norm(guidance.permute(0, 2, 3, 1))[:, None]  # (B, 1, h, w, G)
        x = x.permute(0, 1, 3, 4, 2)  # (B, N, h, w, C)
        x = self.shifted(self.plain(x, guidance), guidance)
        return x.permute(0, 1, 4, 2, 3)  # (B, N, C, h, w)
