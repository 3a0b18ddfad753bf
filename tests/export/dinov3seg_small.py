"""dinov3.seg as small as it can be with every part that it has."""

from __future__ import annotations

from dataclasses import replace

import torch

from ovsdino.dinov3seg.config import Dinov3segConfig, LocalGlobalConfig
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.presets import DINOTXT_TINY
from tests.dinov3seg.small import SMALL, SMALL_CLIP, SMALL_VLM, randomise

MICRO = replace(
    SMALL,
    name="micro",
    vlm=replace(
        DINOTXT_TINY,
        name="micro",
        backbone="test_vit",
        backbone_width=64,
        position_size=96,  # of the weights; windows have 4 patches a side, so the embedding is resized
        head_blocks=1,
        head_heads=2,
        text_width=128,
    ),
    late_layers=1,
    crop=64,
    early_shrink=2,
    inference=LocalGlobalConfig(view=96, window=64, stride=32),  # 6 patches: windows of 4 shift
)
VARIANTS: dict[str, Dinov3segConfig] = {
    "whole": MICRO,
    "no-prior": replace(MICRO, prior=None),
    "no-early": replace(MICRO, early=False),
    "no-late": replace(MICRO, late=False),
    "local": replace(MICRO, halves=("local",)),
    "shrunk-whole": replace(MICRO, inference=replace(MICRO.inference, whole="window")),
    "dinov3": replace(MICRO, vlm=SMALL_VLM),  # RoPE, registers, SwiGLU
    "clip": replace(MICRO, vlm=SMALL_CLIP, halves=("global",)),
}


def make_network(config: Dinov3segConfig) -> Dinov3Seg:
    """Build a network whose every part shows in its result."""
    torch.manual_seed(0)
    network = Dinov3Seg(config).eval()
    for part in (network.early, network.late, network.decoder, network.cost_embedding):
        randomise(part)
    return network
