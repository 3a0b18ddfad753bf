"""DINOv3's rotary position embedding, whose periods are stored in checkpoints."""

from __future__ import annotations

from typing import cast

import timm
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn

ROPE_PERIODS = "rope.periods"  # timm's name of the buffer, in the backbone


def create_backbone(name: str, *, image_size: int = 0) -> nn.Module:
    """Create a timm backbone without weights; make the periods of DINOv3's RoPE part of its state.

    timm computes the periods in FP32 and does not store them. Official files store them rounded to BF16, and
    the official code uses the rounded values; we therefore store and load them with the weights.

    Source: facebookresearch/dinov3, ``dinov3/layers/rope_position_encoding.py`` (a persistent buffer).

    Args:
        name: timm's name of the backbone.
        image_size: side of the image for which learned positions were made [px]; 0 if it has none.
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
