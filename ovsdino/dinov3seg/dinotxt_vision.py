"""dino.txt's vision tower: a frozen or fine-tuned backbone, and two blocks that align it with text."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Patches, VlmConfig
from ovsdino.dinov3seg.rope import create_backbone


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
        """Apply the head to all tokens."""
        for block in self.blocks:
            tokens = block(tokens)
        return cast(Tensor, self.ln_final(tokens))


class DinoTxtVision(nn.Module):
    """Patches in the text space: ``head(norm(backbone(pixels)))`` without class token and registers.

    dino.txt's training aligns the mean of the head's patches with text; they are therefore the default.
    ``patches="backbone"`` returns the backbone's patches after its final norm instead, which the published
    notebook compares with text (see `ovsdino.dinov3seg.config.ZeroShotProtocol`).

    Source: dinov3.seg, section 3; facebookresearch/dinov3, ``eval/text/vision_tower.py``.

    Args:
        config: backbone and head.

    Shape: pixels (B, 3, H, W), sides multiples of the patch -> (B, D, h, w).
    """

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        self.name, self.patch_size = config.backbone, config.patch_size
        self.backbone = create_backbone(config.backbone, image_size=config.position_size)
        self.prefix = int(cast(int, self.backbone.num_prefix_tokens))  # class token and registers
        self.head = VisionHead(config)

    def forward(self, pixels: Tensor, patches: Patches = "head") -> Tensor:
        """Return the head's patches, or the backbone's after its final norm, as a map."""
        tokens = self.tokens(pixels) if patches == "head" else self.backbone_tokens(pixels)
        size = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        return torch.unflatten(tokens[:, self.prefix :].transpose(1, 2), 2, size)  # (B, D, h, w)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Return class token, registers and patches: (B, 3, H, W) -> (B, 1 + R + L, D)."""
        return cast(Tensor, self.head(self.backbone_tokens(pixels)))

    def backbone_tokens(self, pixels: Tensor) -> Tensor:
        """Return the backbone's tokens after its final norm: (B, 3, H, W) -> (B, 1 + R + L, D)."""
        return cast(Tensor, self.backbone.forward_features(pixels))  # type: ignore[operator]

    def embed(self, pixels: Tensor) -> Tensor:
        """Return one vector per photo, class token then mean patch: (B, 3, H, W) -> (B, 2 D)."""
        tokens = self.tokens(pixels)
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(1)], dim=-1)
