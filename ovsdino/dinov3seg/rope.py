"""DINOv3's rotary positions: their periods are weights of a checkpoint, not constants of the code."""

from __future__ import annotations

from typing import cast

import timm
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn

ROPE_PERIODS = "rope.periods"  # timm's name of the buffer, in the backbone


def create_backbone(name: str, *, image_size: int = 0) -> nn.Module:
    """Create a timm backbone without weights; where it has DINOv3's RoPE, its periods are part of the state.

    timm computes the periods in FP32 and leaves them out of its files. Official files hold them rounded to
    BF16, and the official code computes with the rounded ones, so ours are stored and loaded with the
    weights.

    Source: facebookresearch/dinov3, ``dinov3/layers/rope_position_encoding.py`` (a persistent buffer).

    Args:
        name: timm's name of the backbone.
        image_size: side of the image that learned positions were made for [px]; 0 for a backbone without.
    """
    size = {"img_size": image_size} if image_size else {}
    backbone = timm.create_model(
        name,
        pretrained=False,
        num_classes=0,
        global_pool="",
        dynamic_img_size=True,
        **size,  # type: ignore[arg-type]
    )
    rope = getattr(backbone, "rope", None)
    if isinstance(rope, RotaryEmbeddingDinoV3):
        rope.register_buffer("periods", cast(Tensor, rope.periods), persistent=True)
    return backbone


def computed_periods(backbone: nn.Module) -> Tensor:
    """Compute the periods of a backbone with DINOv3's RoPE from its settings, in FP32, as timm does."""
    return cast(RotaryEmbeddingDinoV3, backbone.rope)._compute_periods()
