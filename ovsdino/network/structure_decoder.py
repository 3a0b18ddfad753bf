"""The Structure-Modulated Decoder (SMD) and the Preservation Gate: add structure to DINO's features."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.kernels import ops
from ovsdino.network.config import ModelConfig
from ovsdino.network.structure_encoder import DepthwiseBlock


class StructureModulatedDecoder(nn.Sequential):
    """SMD: compress the structure map into a modulation map, ``conv_1x1(depthwise_block_stride_2(s))``.

    Source: OVS-DINO, eq. 13; normalisation, activation and the 1x1 convolution are our reconstruction.

    Args:
        config: structure channels, backbone width, groups.

    Shape: structure (B, S, 2h, 2w) -> modulation (B, C, h, w).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            DepthwiseBlock(config.structure_channels, groups=config.norm_groups, stride=2),
            nn.Conv2d(config.structure_channels, config.backbone_width, 1),
        )


def residual_bottleneck(channels: int, width: int, groups: int) -> nn.Sequential:
    """Return the branch of the gate's residual block: 1x1 down, 3x3, 1x1 up, GroupNorm and GELU between."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1),
        nn.GroupNorm(groups, width),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(groups, width),
        nn.GELU(),
        nn.Conv2d(width, channels, 1),
    )


class PreservationGate(nn.Module):
    """Let a structure map modulate DINO's features without replacing them.

    With ``r = m + residual(m)`` and a learned ``alpha`` that starts at 0, so that an untrained gate is
    the identity and training departs from plain DINO:

    - ``modulate`` (default): ``x + alpha * x * sigmoid(r)``
    - ``tanh``: ``x + alpha * x * tanh(r)``
    - ``add``: ``x + alpha * m * sigmoid(r)``
    - ``replace``: ``x * sigmoid(r) + alpha * m``, which is not the identity at any alpha

    Source: OVS-DINO, eq. 14; the residual block's form and the activation are our reconstruction.

    Args:
        config: widths, the form and the shape of alpha.

    Shape: x (B, C, h, w), modulation (B, C, h', w') -> (B, C, h, w).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.form = config.gate_form
        self.residual = residual_bottleneck(config.backbone_width, config.gate_width, config.norm_groups)
        shape = (1, config.backbone_width, 1, 1) if config.gate_scale == "channel" else (1,)
        self.alpha = nn.Parameter(torch.full(shape, config.gate_init))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Modulate x."""
        m = modulation
        if m.shape[-2:] != x.shape[-2:]:
            m = F.interpolate(m, x.shape[-2:], mode="bilinear", align_corners=False)  # (B, C, h, w)
        return self.blend(x, m, self.residual(m))

    def blend(self, x: Tensor, m: Tensor, residual: Tensor) -> Tensor:
        """Apply the formula, all (B, C, h, w); inference on CUDA uses one fused kernel."""
        if self.form == "modulate" and ops.usable(x):
            return cast(Tensor, ops.preservation_gate(x, m, residual, self.alpha))
        r = m + residual
        if self.form == "modulate":
            return x + self.alpha * x * r.sigmoid()
        if self.form == "tanh":
            return x + self.alpha * x * r.tanh()
        if self.form == "add":
            return x + self.alpha * m * r.sigmoid()
        return x * r.sigmoid() + self.alpha * m
