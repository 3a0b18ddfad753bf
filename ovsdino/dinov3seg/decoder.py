"""The decoder: upsample the refined map of each class from 1/16 to logits at 1/4, guided by SAM."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.semantic_prior import Prior


def double_convolution(channels: int, out: int, group: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each with GroupNorm and ReLU."""

    def one(channels: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        return [convolution, nn.GroupNorm(max(1, out // group), out), nn.ReLU()]

    return nn.Sequential(*one(channels), *one(out))


class UpsamplingStage(nn.Module):
    """Double the resolution, concatenate the guidance, and convolve twice.

    Shape: x (B * N, C, h, w), guidance (B, guidance, 2h, 2w) or None -> (B * N, out, 2h, 2w).
    """

    def __init__(self, channels: int, out: int, *, prior: int, guidance: int, group: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(prior, guidance, 3, padding=1) if guidance else None
        self.up = nn.ConvTranspose2d(channels, channels - guidance, 2, stride=2)
        self.convolve = double_convolution(channels, out, group)

    def encode(self, prior: Tensor) -> Tensor | None:
        """Project the prior to the guidance's width: (B, W, 2h, 2w) -> (B, guidance, 2h, 2w)."""
        return None if self.project is None else cast(Tensor, self.project(prior)).relu()

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Upsample by one stage."""
        x = self.up(x)
        if guidance is not None:
            each = guidance[:, None].expand(-1, x.shape[0] // guidance.shape[0], -1, -1, -1)
            x = torch.cat([x, each.flatten(0, 1)], dim=1)
        return cast(Tensor, self.convolve(x))


class UpsamplingDecoder(nn.Module):
    """Two upsampling stages, then one logit per class and position.

    Source: dinov3.seg, section 3 (light, convolutional, fused with the prior's features at intermediate
    resolutions); widths as CAT-Seg's, our reconstruction.

    Args:
        config: widths, and whether there is a prior.

    Shape: x (B, N, C, h, w), prior -> (B, N, 4h, 4w).
    """

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        first, second = config.decoder_widths
        wide, narrow = config.decoder_prior_widths if config.prior else (0, 0)
        guidance = config.decoder_guidance_widths if config.prior else (0, 0)
        group = config.decoder_group
        self.prior_up1, self.prior_up2 = None, None
        if config.prior:
            self.prior_up1 = nn.ConvTranspose2d(config.prior.width, wide, 2, stride=2)
            self.prior_up2 = nn.ConvTranspose2d(config.prior.width, narrow, 4, stride=4)
        self.stage1 = UpsamplingStage(config.width, first, prior=wide, guidance=guidance[0], group=group)
        self.stage2 = UpsamplingStage(first, second, prior=narrow, guidance=guidance[1], group=group)
        self.head = nn.Conv2d(second, 1, 3, padding=1)

    def forward(self, x: Tensor, prior: Prior | None) -> Tensor:
        """Decode each class independently."""
        logits = self.upsample(x.flatten(0, 1), *self.guide(prior, list(x.shape[-2:])))  # (B * N, 4h, 4w)
        return torch.unflatten(logits, 0, x.shape[:2])

    def guide(self, prior: Prior | None, size: list[int]) -> tuple[Tensor | None, Tensor | None]:
        """Return the guidance of both stages, (B, G1, 2h, 2w) and (B, G2, 4h, 4w); None without a prior."""
        if prior is None or self.prior_up1 is None or self.prior_up2 is None:
            return None, None
        first, second = self.prior_up1(fit(prior.first, size)), self.prior_up2(fit(prior.second, size))
        return self.stage1.encode(first), self.stage2.encode(second)

    def upsample(self, x: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
        """Upsample by both stages: x (B * N, C, h, w), guidance of :meth:`guide` -> (B * N, 4h, 4w)."""
        x = self.stage2(self.stage1(x, first), second)
        return cast(Tensor, self.head(x)).squeeze(1)


def fit(x: Tensor, size: list[int]) -> Tensor:
    """Resize a map from SAM's grid to the patch grid. Shape: (B, W, g, g) -> (B, W, h, w)."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
