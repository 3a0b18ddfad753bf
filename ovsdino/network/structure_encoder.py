"""The Structure-Aware Encoder (SAE): fuse DINO's layers to a map aligned with SAM's image features."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ovsdino.kernels import ops
from ovsdino.network.config import SAM_GRID_FACTOR, ModelConfig


class DepthwiseBlock(nn.Sequential):
    """Filter each channel separately: ``gelu(group_norm(depthwise_conv_3x3(x)))``.

    Source: OVS-DINO, eq. 9; normalisation and activation are our reconstruction.

    Args:
        channels: C of input and output.
        groups: groups of the GroupNorm.
        stride: 1 keeps the resolution, 2 halves it (the SMD's downsampling).

    Shape: x (B, C, h, w) -> (B, C, h / stride, w / stride).
    """

    def __init__(self, channels: int, *, groups: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
            nn.GroupNorm(groups, channels),
            nn.GELU(),
        )

    @property
    def conv(self) -> nn.Conv2d:
        """The depthwise convolution."""
        return cast(nn.Conv2d, self[0])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; inference on CUDA uses one fused kernel."""
        norm = self[1]
        if isinstance(norm, nn.GroupNorm) and ops.usable(x):
            stride = self.conv.stride[0]
            fused = ops.depthwise_block(x, self.conv.weight, norm.weight, norm.bias, norm.num_groups, stride)
            return cast(Tensor, fused)
        return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]


class GatedFusion(nn.Module):
    """Normalise layers of different statistics and average them: ``sum_l w_l * GN(conv_l(x_l))``.

    Source: OVS-DINO, eq. 7; the softmax over learned weights (initially equal), and the separate convolution
    and GroupNorm of each layer, are our reconstruction. ``fusion="shared"`` uses the same for all layers.

    Args:
        config: taps, widths, whether the convolutions are shared, and how the weights are normalised.

    Shape: K taps, each (B, C, h, w) -> (B, E, h, w).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.softmax = config.aggregation == "softmax"
        self.transforms = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(config.backbone_width, config.encoder_width, 1),
                nn.GroupNorm(config.norm_groups, config.encoder_width),
            )
            for _ in (config.taps if config.fusion == "per-tap" else config.taps[:1])
        )
        start = 0.0 if self.softmax else 1 / len(config.taps)
        self.layer_weights = nn.Parameter(torch.full((len(config.taps),), start))

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Fuse the taps."""
        weights = self.layer_weights.softmax(0) if self.softmax else self.layer_weights  # (K,)
        transforms = list(self.transforms) * (len(taps) // len(self.transforms))
        parts = [w * phi(tap) for w, phi, tap in zip(weights, transforms, taps, strict=True)]
        return cast(Tensor, sum(parts[1:], start=parts[0]))  # (B, E, h, w)


class StructureAwareEncoder(nn.Module):
    """SAE: ``conv_3x3(up_x2(D2(D1(fusion(taps)))))``, trained to equal SAM's neck output.

    Source: OVS-DINO, eq. 7 to 9; the width, the bilinear upsampling, the output's kernel and that the
    depthwise layers have no skip connection are our reconstruction.

    Args:
        config: taps, widths, groups.

    Shape: K taps, each (B, C, h, w) -> (B, S, 2h, 2w), S the structure channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.fusion = GatedFusion(config)
        self.refine = nn.Sequential(*(DepthwiseBlock(width, groups=config.norm_groups) for _ in range(2)))
        self.residual = config.depthwise_residual
        corners = False if config.upsampling == "bilinear" else None
        self.upsample = nn.Upsample(
            scale_factor=SAM_GRID_FACTOR, mode=config.upsampling, align_corners=corners
        )
        kernel = config.output_kernel
        self.output = nn.Conv2d(width, config.structure_channels, kernel, padding=kernel // 2)

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Encode the taps into a structure map."""
        fused = cast(Tensor, self.fusion(taps))  # (B, E, h, w)
        for layer in self.refine:
            fused = fused + layer(fused) if self.residual else layer(fused)
        return cast(Tensor, self.output(self.upsample(fused)))  # (B, S, 2h, 2w)
