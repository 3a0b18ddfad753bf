"""Early refinement: edge-aware attention that averages patches in their own space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Dinov3segConfig, UnificationOrder
from ovsdino.network.head import unit

UNIFIED_AT_ONCE = 128  # feature channels, over the whole map, that are filtered in one go: bounds the memory


class ResidualBlock(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))`` with 1x1 convolutions. Shape: (B, C, H, W), kept."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        layers = [
            [nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, channels, 1, bias=False)]
            for _ in range(2)
        ]
        self.block = nn.Sequential(*layers[0], *layers[1])

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return x + cast(Tensor, self.block(x))


def encoder(first: nn.Module, channels: int, groups: int) -> nn.Sequential:
    """Return ``first`` and two residual blocks."""
    return nn.Sequential(first, *(ResidualBlock(channels, groups) for _ in range(2)))


def convolution(channels: int, out: int, kernel: int) -> nn.Conv2d:
    """Return a convolution that keeps the size, mirrors at the border and has no bias."""
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, padding_mode="reflect", bias=False)


class FeatureUnification(nn.Module):
    """Map features of any width ``D`` to ``M`` channels by filtering every channel with M learned kernels.

    Near the border a kernel covers only positions inside the map. The ``D * M`` responses at a position
    become ``M`` shares in one of two orders:

    - ``formula``: as the paper writes it, a softmax over the M kernels for each channel, then the mean over
      the channels.
    - ``released``: as the released code computes it. Its grouped convolution returns the responses as
      ``(D, M)``, which it views as ``(M, D)`` without transposing: its softmax runs over every D-th response
      of the flat list. Choose it with the released weights, which were trained like this.

    Source: AnyUp, section 3.1; wimmerth/anyup, ``layers/feature_unification.py``.

    Args:
        out_channels: M, the number of output channels.
        kernel: side of a kernel.
        order: "formula" or "released", see above.

    Shape: features (B, D, h, w) -> (B, M, h, w), sums to 1 over M.
    """

    def __init__(self, out_channels: int, kernel: int, order: UnificationOrder) -> None:
        super().__init__()
        self.order = order
        self.basis = nn.Parameter(torch.randn(out_channels, 1, kernel, kernel))

    def forward(self, features: Tensor) -> Tensor:
        """Unify the features, a strip of rows at a time to bound the memory."""
        inside = self.count_inside(features)  # (1, 1, h, w)
        return torch.cat(
            [
                self.unify(answers / inside[:, :, rows])  # (B, M, r, w)
                for rows, answers in self.filter_strips(features)
            ],
            dim=2,
        )

    def count_inside(self, features: Tensor) -> Tensor:
        """Count the kernel positions inside the map: (B, D, h, w) -> (1, 1, h, w)."""
        return F.conv2d(
            torch.ones_like(features[:1, :1]), torch.ones_like(self.basis[:1]), padding=self.margin
        )

    @property
    def margin(self) -> int:
        """Number of positions between a kernel's centre and its edge."""
        return self.basis.shape[-1] // 2

    def filter_strips(self, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Filter every channel with every kernel. Yields rows and responses (B, D, M, r, w)."""
        batch, channels, height, _ = features.shape
        step = max(1, UNIFIED_AT_ONCE * height // channels)
        padded = F.pad(features, (self.margin,) * 4)
        for top in range(0, height, step):
            rows = slice(top, min(top + step, height))
            strip = padded[:, :, rows.start : rows.stop + 2 * self.margin].flatten(0, 1)[:, None]
            yield rows, torch.unflatten(F.conv2d(strip, self.basis), 0, (batch, channels))

    def unify(self, answers: Tensor) -> Tensor:
        """Turn responses into shares, in this module's order: (B, D, M, r, w) -> (B, M, r, w)."""
        channels, patterns = answers.shape[1:3]
        if self.order == "formula":
            return answers.softmax(2).mean(1)
        viewed = torch.unflatten(answers.flatten(1, 2), 1, (patterns, channels))  # (B, M, D, r, w), scrambled
        return viewed.softmax(1).mean(2)


class ImageRope(nn.Module):
    """Rotate pairs of channels by an angle proportional to the image position, with learned frequencies.

    Source: AnyUp, ``layers/positional_encoding.py``.

    Shape: x (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, theta: float) -> None:
        super().__init__()
        frequencies = theta ** torch.linspace(0, -1, channels // 4)
        halves = torch.cat([frequencies, frequencies])  # the two channels of a pair
        zeros = torch.zeros_like(halves)
        rows = torch.stack([torch.cat([halves, zeros]), torch.cat([zeros, halves])])  # (2, C)
        self.freqs = nn.Parameter(rows * 2 * torch.pi)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate by the pixel coordinates, which run from 0 to 1 along both axes."""
        height, width = x.shape[-2:]
        down = torch.linspace(0, 1, height, device=x.device, dtype=x.dtype)[:, None, None]  # (H, 1, 1)
        across = torch.linspace(0, 1, width, device=x.device, dtype=x.dtype)[None, :, None]  # (1, W, 1)
        angle = (down * self.freqs[0] + across * self.freqs[1]).permute(2, 0, 1)  # (C, H, W)
        first, second = x.chunk(2, dim=1)
        return x * angle.cos() + torch.cat([-second, first], dim=1) * angle.sin()


class WindowWeights(nn.Module):
    """Compute the attention weights of patches on patches within a window, averaged over heads.

    Source: AnyUp, section 3.2.

    Shape: query and key (B, M, h, w) -> (B, h * w, h * w), rows sum to 1.
    """

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        channels = config.early_width
        self.heads, self.ratio = config.early_heads, config.early_window
        self.context = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(channels), nn.RMSNorm(channels)
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Compare queries and keys."""
        height, width = query.shape[-2:]
        q = self._split(self.query(self.norm_q(tokens(self.context(query)))))  # (B, heads, L, d)
        k = self._split(self.key(self.norm_k(tokens(key))))  # (B, heads, L, d)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, L, L)
        rows = window_reach(height, self.ratio, device=query.device)
        columns = window_reach(width, self.ratio, device=query.device)
        near = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)  # (L, L)
        weights: Tensor = scores.masked_fill(~near, -torch.inf).softmax(-1)
        return weights.mean(1)

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


def tokens(x: Tensor) -> Tensor:
    """Unfold a map: (B, C, h, w) -> (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def window_reach(length: int, ratio: float, *, device: torch.device | None = None) -> Tensor:
    """Return which positions along an axis lie in each position's window, ``centre +- ratio``.

    Shape: (length, length) bool, row by row.
    """
    centre = (torch.arange(length, dtype=torch.float32) + 0.5) / length
    first = ((centre - ratio).clamp(0, 1) * length).floor()
    stop = ((centre + ratio).clamp(0, 1) * length).ceil()
    places = torch.arange(length)
    reach = (places >= first[:, None]) & (places < stop[:, None])
    return reach.to(device)


class EarlyRefinement(nn.Module):
    """Refine patches before correlation: ``V' = A(image, V) V`` with windowed attention A and RoPE.

    The result is a weighted mean of the original patches, so it stays in the space that is aligned with text.

    Source: dinov3.seg, section 3 (window attention, original patches as values, rotary positions, AnyUp);
    the inside is AnyUp's, applied at the resolution of the patches, which is our reconstruction.

    Args:
        config: widths, heads, window.

    Shape: image (B, 3, H, W) normalised with ImageNet's mean and std, patches (B, D, h, w) -> (B, D, h, w).
    """

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        channels, groups = config.early_width, config.early_groups
        self.residual, self.shrink = config.early_residual, config.early_shrink
        self.image_encoder = encoder(convolution(3, channels, 1), channels, groups)
        self.key_encoder = encoder(convolution(channels, channels, 1), channels, groups)
        self.query_encoder = encoder(convolution(channels, channels, 1), channels, groups)
        unification = FeatureUnification(channels, config.early_basis, config.early_unification)
        self.key_features_encoder = encoder(unification, channels, groups)
        self.aggregation = encoder(convolution(2 * channels, channels, 3), channels, groups)
        self.query_aggregation = (
            encoder(convolution(2 * channels, channels, 3), channels, groups)
            if config.early_query_features
            else None
        )
        self.rope = ImageRope(channels, config.early_theta)
        self.weights = WindowWeights(config)

    def forward(self, image: Tensor, patches: Tensor) -> Tensor:
        """Refine the patches."""
        size = (patches.shape[-2], patches.shape[-1])
        if self.shrink > 1:
            image = F.avg_pool2d(image, self.shrink)  # (B, 3, H / shrink, W / shrink)
        code = self.rope(self.image_encoder(image))  # (B, M, H, W)
        unified = self.key_features_encoder(unit(patches).to(patches.dtype))  # (B, M, h, w)
        query = F.adaptive_avg_pool2d(self.query_encoder(code), size)  # (B, M, h, w)
        if self.query_aggregation is not None:
            query = self.query_aggregation(torch.cat([query, unified], dim=1))  # (B, M, h, w)
        key = F.adaptive_avg_pool2d(self.key_encoder(code), size)  # (B, M, h, w)
        key = self.aggregation(torch.cat([key, unified], dim=1))  # (B, M, h, w)
        refined = self.weights(query, key) @ tokens(patches)  # (B, L, D)
        refined = torch.unflatten(refined.transpose(1, 2), 2, size)  # (B, D, h, w)
        return patches + refined if self.residual else refined
