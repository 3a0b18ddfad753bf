"""The decoder: from a class's refined map at 1/16 to its logits at 1/4, along SAM's edges."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.config import SegConfig
from ovsdino.dinov3seg.semantic_prior import Prior


def double_convolution(channels: int, out: int, group: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each with GroupNorm and ReLU."""

    def one(channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        return [convolution, nn.GroupNorm(max(1, out // group), out), nn.ReLU()]

    return nn.Sequential(*one(channels), *one(out))


class Stage(nn.Module):
    """Double the resolution, put the guidance beside, and convolve twice.

    Shape: x (B * N, C, h, w), guidance (B, W, 2h, 2w) or None -> (B * N, out, 2h, 2w).
    """

    def __init__(self, channels: int, out: int, *, prior: int, guidance: int, group: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(prior, guidance, 3, padding=1) if guidance else None
        self.up = nn.ConvTranspose2d(channels, channels - guidance, 2, stride=2)
        self.convolve = double_convolution(channels, out, group)

    def forward(self, x: Tensor, prior: Tensor | None) -> Tensor:
        """Go up one stage."""
        x = self.up(x)
        if self.project is not None and prior is not None:
            guidance = self.project(prior).relu()  # (B, guidance, 2h, 2w)
            x = torch.cat([x, guidance.repeat_interleave(len(x) // len(guidance), dim=0)], dim=1)
        return cast(Tensor, self.convolve(x))


class UpsamplingDecoder(nn.Module):
    """Two stages up, then one logit a class and place.

    Source: dinov3.seg, section 3 (light, convolutional, fused with the prior's features at intermediate
    resolutions); widths as CAT-Seg's, our reconstruction.

    Args:
        config: widths, and whether there is a prior.

    Shape: x (B, N, C, h, w), prior -> (B, N, 4h, 4w).
    """

    def __init__(self, config: SegConfig) -> None:
        super().__init__()
        first, second = config.decoder_widths
        wide, narrow = config.decoder_prior_widths if config.prior else (0, 0)
        guidance = config.decoder_guidance_widths if config.prior else (0, 0)
        group = config.decoder_group
        self.prior_up1, self.prior_up2 = None, None
        if config.prior:
            self.prior_up1 = nn.ConvTranspose2d(config.prior.width, wide, 2, stride=2)
            self.prior_up2 = nn.ConvTranspose2d(config.prior.width, narrow, 4, stride=4)
        self.stage1 = Stage(config.width, first, prior=wide, guidance=guidance[0], group=group)
        self.stage2 = Stage(first, second, prior=narrow, guidance=guidance[1], group=group)
        self.head = nn.Conv2d(second, 1, 3, padding=1)

    def forward(self, x: Tensor, prior: Prior | None) -> Tensor:
        """Decode each class by itself."""
        batch, classes, _, *size = x.shape
        fine: list[Tensor | None] = [None, None]
        if prior is not None and self.prior_up1 is not None and self.prior_up2 is not None:
            fine = [self.prior_up1(fit(prior.first, size)), self.prior_up2(fit(prior.second, size))]
        x = self.stage1(x.flatten(0, 1), fine[0])  # (B * N, first, 2h, 2w)
        x = self.stage2(x, fine[1])  # (B * N, second, 4h, 4w)
        return torch.unflatten(self.head(x).squeeze(1), 0, (batch, classes))


def fit(x: Tensor, size: list[int]) -> Tensor:
    """Bring a map of SAM's grid to the patches' grid. Shape: (B, W, g, g) -> (B, W, h, w)."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
