"""Small networks that every test of dinov3.seg can afford."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ovsdino.dinov3seg.config import LocalGlobalConfig, PriorConfig, VlmConfig
from ovsdino.dinov3seg.presets import CLIP_VITL14, TINY

# dino.txt on DINOv3 with the smallest backbone that timm has, and a text tower of two layers.
SMALL_VLM = VlmConfig(
    name="small",
    backbone="vit_tiny_patch16_dinov3_qkvb",
    backbone_width=192,
    head_heads=3,
    text_width=384,
    text_layers=2,
    text_channels=32,
    text_heads=2,
    text_vocabulary=100,
)

# CLIP on the smallest of timm's towers with CLIP's layout.
SMALL_CLIP = replace(
    CLIP_VITL14,
    name="small-clip",
    backbone="vit_xsmall_patch16_clip_224",
    patch_size=16,
    position_size=64,
    text_width=24,
    text_layers=2,
    text_channels=24,
    text_heads=2,
)

SMALL = replace(
    TINY,
    name="small",
    vlm=SMALL_VLM,
    crop=96,
    width=16,
    early_width=16,
    early_basis=5,
    early_unification="released",
    early_shrink=1,
    guidance_width=8,
    late_window=4,
    pad_length=8,
    prior=PriorConfig(
        width=16,
        depth=2,
        heads=2,
        global_blocks=(1,),
        window=3,
        taps=(0, 1),
        size=96,
        native_size=128,
        channels=8,
    ),
    decoder_widths=(8, 8),
    decoder_prior_widths=(8, 8),
    decoder_guidance_widths=(4, 4),
    inference=LocalGlobalConfig(view=160, window=96, stride=64),
)


def randomise(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Give every parameter a value that shows: no zeros, no ones, no tiny layer scales."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.randn_like(parameter) * scale * parameter.shape[-1] ** -0.25 + offset)
    return module
