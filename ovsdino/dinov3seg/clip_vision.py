"""CLIP's vision tower as patch encoder: the ablation that replaces dino.txt by CLIP."""

from __future__ import annotations

from typing import cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ovsdino.dinov3seg.config import VlmConfig


class ClipVision(nn.Module):
    """CLIP's patches in the text space: the last block's attention is replaced by its values.

    CLIP was trained on its class token only; without the last attention each patch keeps its own content.

    Source: dinov3.seg, table of VLMs; MaskCLIP's values as in CAT-Seg, ``third_party/model_vpt.py``.

    Args:
        config: the timm name and width of the backbone, and the text's width.

    Shape: pixels (B, 3, H, W), sides multiples of the patch -> (B, D, h, w).
    """

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        model = timm.create_model(
            config.backbone,
            pretrained=False,
            num_classes=config.text_width,
            img_size=config.position_size,
            dynamic_img_size=True,
        )
        self.vit = cast(VisionTransformer, model)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the patches as a map."""
        x = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(pixels)))  # (B, 1 + L, W)
        for block in list(self.vit.blocks)[:-1]:
            x = block(x)
        x = x[:, self.vit.num_prefix_tokens :]  # (B, L, W); what follows treats each token by itself
        last = self.vit.blocks[-1]
        values = last.attn.qkv(last.norm1(x)).chunk(3, dim=-1)[2]  # type: ignore[union-attr, operator]
        x = x + last.attn.proj(values)  # type: ignore[union-attr, operator]
        x = x + last.mlp(last.norm2(x))  # type: ignore[operator]
        patches = self.vit.head(self.vit.norm(x))  # (B, L, D)
        size = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        return torch.unflatten(patches.transpose(1, 2), 2, size)  # (B, D, h, w)
