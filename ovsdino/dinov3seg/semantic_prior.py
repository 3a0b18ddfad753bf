"""The Semantic Prior Encoder (SPE): SAM's features as guidance for late refinement and decoder."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from ovsdino.dinov3seg.config import PriorConfig
from ovsdino.network.backbone import resize_positions

PATCH = 16  # [px]


class Prior(NamedTuple):
    """Features of SAM's image encoder, on its own grid."""

    last: Tensor  # (B, S, g, g), the neck's output
    first: Tensor  # (B, W, g, g), the tap for the decoder's first stage
    second: Tensor  # (B, W, g, g), the tap for its second stage


class SemanticPrior(nn.Module):
    """SAM's image encoder, frozen.

    Source: dinov3.seg, section 3 (SAM ViT-L); segment-anything's own modules.

    Args:
        config: size of the encoder, its taps, its input.

    Shape: image (B, 3, H, W) normalised with ImageNet's mean and std, square -> :class:`Prior`.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoderViT(
            img_size=config.native_size,
            patch_size=PATCH,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            out_chans=config.channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window,
            global_attn_indexes=config.global_blocks,
        )
        self.requires_grad_(not config.frozen)

    def forward(self, image: Tensor) -> Prior:
        """Resize the image to SAM's size and encode it."""
        size = (self.config.size, self.config.size)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            return self.encode(image)

    def encode(self, image: Tensor) -> Prior:
        """Encode an image of SAM's size: (B, 3, S, S)."""
        x = self.encoder.patch_embed(image)  # (B, g, g, W)
        x = x + self.positions((x.shape[1], x.shape[2]))
        taps = []
        for number, block in enumerate(self.encoder.blocks):
            x = block(x)
            if number in self.config.taps:
                taps.append(x.permute(0, 3, 1, 2))  # (B, W, g, g)
        return Prior(self.encoder.neck(x.permute(0, 3, 1, 2)), *taps)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding, resized: -> (1, h, w, W)."""
        positions = cast(Tensor, self.encoder.pos_embed).flatten(1, 2)  # (1, native grid, W)
        positions = resize_positions(positions, grid, offset=0.0, antialias=False)  # (1, h * w, W)
        return torch.unflatten(positions, 1, grid)
