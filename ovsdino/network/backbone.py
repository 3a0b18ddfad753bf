"""The Vision Transformer under OVS-DINO: timm's blocks, the official position embedding, any taps."""

from __future__ import annotations

import math
from typing import cast

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ovsdino.network.config import ModelConfig


def resize_positions(positions: Tensor, size: tuple[int, int], *, offset: float, antialias: bool) -> Tensor:
    """Resize a learned position embedding to another patch grid, as the official DINOv2 code does.

    The offset makes the scale factor, and so every sample's place, slightly larger than ``size / grid``;
    leaving it out shifts the features (facebookresearch/dino issue 8).

    Source: facebookresearch/dinov2, ``interpolate_pos_encoding``.

    Args:
        positions: the patches' embedding on a square grid.
        size: the wanted grid, rows and columns [patches].
        offset: added to the wanted size before the scale factor is taken [patches]; 0 resizes by size.
        antialias: low-pass before downscaling (the official models with registers).

    Shape: positions (1, g * g, C) -> (1, h * w, C).
    """
    side = math.isqrt(positions.shape[1])
    if size == (side, side):
        return positions
    grid = positions.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, g, g)
    scale = tuple((length + offset) / side for length in size) if offset else None
    grid = F.interpolate(
        grid,
        size=None if scale else size,
        scale_factor=scale,
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )  # (1, C, h, w)
    return grid.flatten(2).transpose(1, 2).to(positions.dtype)  # (1, h * w, C)


class Backbone(nn.Module):
    """A timm ViT that returns the outputs of chosen blocks as feature maps.

    Source: OVS-DINO, section 3; DINOv2's position embedding as in the official code.

    Args:
        config: the backbone's timm name, width, depth, position embedding and taps.

    Shape: pixels (B, 3, H, W), sides multiples of the patch -> K taps, each (B, C, h, w), in order, and the
        last block's normalised output (B, C, h, w).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        model = timm.create_model(
            config.backbone,
            pretrained=False,
            num_classes=0,
            global_pool="",
            img_size=config.position_grid * config.patch_size,
            dynamic_img_size=True,
        )
        self.vit = cast(VisionTransformer, model)

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the taps and the last block's output after the final norm."""
        patches = self.vit.patch_embed(pixels)  # (B, h, w, C)
        size = (patches.shape[1], patches.shape[2])
        tokens = self.with_prefix(patches.flatten(1, 2), size)  # (B, P + h * w, C)
        taps = []
        for number, block in enumerate(self.vit.blocks, start=1):
            tokens = block(tokens)
            if number in self.config.taps:
                taps.append(self.to_map(self.normalise_tap(tokens, number), size))
        return taps, self.to_map(self.vit.norm(tokens), size)

    def with_prefix(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Add positions and put class and register tokens in front: (B, h * w, C) -> (B, P + h * w, C)."""
        embedding = cast(Tensor, self.vit.pos_embed)
        class_token = cast(Tensor, self.vit.cls_token)
        has_class_position = not self.vit.no_embed_class
        positions = resize_positions(
            embedding[:, has_class_position:],
            size,
            offset=self.config.position_offset,
            antialias=self.config.position_antialias,
        )
        first = class_token + embedding[:, :1] if has_class_position else class_token
        prefix = [first] if self.vit.reg_token is None else [first, self.vit.reg_token]
        expanded = [part.expand(tokens.shape[0], -1, -1) for part in prefix]
        return torch.cat([*expanded, tokens + positions], dim=1)

    def normalise_tap(self, tokens: Tensor, number: int) -> Tensor:
        """Apply the ViT's final norm to a tap where the configuration says so."""
        chosen = self.config.norm_taps
        last = number == self.config.backbone_depth
        return (
            cast(Tensor, self.vit.norm(tokens)) if chosen == "all" or (chosen == "last" and last) else tokens
        )

    def to_map(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Drop the prefix and fold the patches: (B, P + h * w, C) -> (B, C, h, w)."""
        patches = tokens[:, self.vit.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(tokens.shape[0], -1, *size)
