"""dino.txt's vision tower: a frozen or finely tuned backbone, and two blocks that bring it to the text."""

from __future__ import annotations

from functools import partial
from typing import cast

import timm
import torch
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from ovsdino.dinov3seg.config import VlmConfig


class VisionHead(nn.Module):
    """Two pre-norm blocks without positions, SwiGLU and LayerScale, then a LayerNorm.

    Source: facebookresearch/dinov3, ``eval/text/vision_tower.py``; timm's ``EvaBlock`` is the same block.

    Args:
        config: width, heads, and how the SwiGLU is rounded.

    Shape: tokens (B, 1 + R + L, D) -> (B, 1 + R + L, D).
    """

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            EvaBlock(
                config.backbone_width,
                config.head_heads,
                qkv_bias=False,
                mlp_ratio=8 / 3,
                swiglu_mlp=True,
                swiglu_align_to=config.head_align,
                init_values=1e-5,
                drop_path=config.head_drop_path,
                norm_layer=partial(nn.LayerNorm, eps=1e-5),
            )
            for _ in range(config.head_blocks)
        )
        self.ln_final = nn.LayerNorm(config.backbone_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Align all tokens."""
        for block in self.blocks:
            tokens = block(tokens)
        return cast(Tensor, self.ln_final(tokens))


class DinoTxtVision(nn.Module):
    """Patches in the space of text: ``head(norm(backbone(pixels)))`` without class token and registers.

    The raw backbone's patches are not aligned with text; these are.

    Source: dinov3.seg, section 3; facebookresearch/dinov3, ``eval/text/vision_tower.py``.

    Args:
        config: backbone and head.

    Shape: pixels (B, 3, H, W), sides multiples of the patch -> (B, D, h, w).
    """

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        self.name, self.patch_size = config.backbone, config.patch_size
        size = {"img_size": config.position_size} if config.position_size else {}
        self.backbone = timm.create_model(
            config.backbone,
            pretrained=False,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            **size,  # type: ignore[arg-type]
        )
        self.prefix = int(cast(int, self.backbone.num_prefix_tokens))  # class token and registers
        self.head = VisionHead(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the patches as a map."""
        patches = self.tokens(pixels)[:, self.prefix :]  # (B, L, D)
        size = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        return torch.unflatten(patches.transpose(1, 2), 2, size)  # (B, D, h, w)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Return class token, registers and patches: (B, 3, H, W) -> (B, 1 + R + L, D)."""
        features = cast(Tensor, self.backbone.forward_features(pixels))  # type: ignore[operator]
        return cast(Tensor, self.head(features))

    def embed(self, pixels: Tensor) -> Tensor:
        """Return one vector a photo, class token then mean patch: (B, 3, H, W) -> (B, 2 D)."""
        tokens = self.tokens(pixels)
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(1)], dim=-1)
