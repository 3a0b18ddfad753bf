"""Talk2DINO: patches of a frozen DINO, and CLIP's text features projected into their space."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.rope import create_backbone
from ovsdino.network.backbone import Backbone
from ovsdino.network.clip_text import ClipTextTower
from ovsdino.zoo.background_cleaning import class_token_attention
from ovsdino.zoo.config import Talk2DinoConfig


class Projection(nn.Module):
    """Project CLIP's text features into DINO's space: ``Linear(tanh(Linear(x)))``.

    It was trained on text features that are not normalised. Parameters have the official names.

    Source: lorebianchi98/Talk2DINO, ``src/model.py: ProjectionLayer.project_clip_txt``.

    Args:
        clip_width: width of a text feature.
        width: width of DINO's patches.

    Shape: x (N, clip width), NOT normalised -> (N, width).
    """

    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(clip_width, width)
        self.hidden_layers = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Project."""
        return cast(Tensor, self.hidden_layers[0](self.linear_layer(x).tanh()))


class Talk2DinoText(nn.Module):
    """CLIP's text encoder and the projection: ``project(mean(encode_raw(prompts)))`` embeds a class.

    The official code averages CLIP's features over the templates without normalising them, and projects the
    mean. ``forward`` embeds single prompts, which is the same for one template.

    Source: lorebianchi98/Talk2DINO, ``models/dinotext/dinotext.py: build_text_embedding``.

    Args:
        config: sizes of CLIP and of the projection.

    Shape: ids (N, T) -> (N, D), FP32, unit length.
    """

    def __init__(self, config: Talk2DinoConfig) -> None:
        super().__init__()
        self.tower = ClipTextTower(
            width=config.clip_width, heads=config.clip_heads, layers=config.clip_layers
        )
        self.projection = Projection(config.clip_width, config.text_width)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed single prompts."""
        return self.project(self.encode_raw(ids))

    def encode_raw(self, ids: Tensor) -> Tensor:
        """Return CLIP's features, not normalised: (N, T) -> (N, clip width)."""
        return self.tower.encode_raw(ids)

    def project(self, raw: Tensor) -> Tensor:
        """Project features, or their mean, to unit vectors: (N, clip width) -> (N, D)."""
        return F.normalize(self.projection(raw), dim=-1)


class RawText(nn.Module):
    """The part of `Talk2DinoText` before the mean. Shape: ids (N, T) -> (N, clip width), not normalised."""

    def __init__(self, text: Talk2DinoText) -> None:
        super().__init__()
        self.text = text

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids."""
        return self.text.encode_raw(ids)


class ProjectedText(nn.Module):
    """The part of `Talk2DinoText` after the mean. Shape: means (N, clip width) -> (N, D) of unit length."""

    def __init__(self, text: Talk2DinoText) -> None:
        super().__init__()
        self.projection = text.projection

    def forward(self, means: Tensor) -> Tensor:
        """Project means."""
        return F.normalize(self.projection(means), dim=-1)


class Dinov2Patches(nn.Module):
    """The last block's patches after the final norm.

    Shape: pixels (B, 3, H, W), sides multiples of the patch -> (B, D, h, w).
    """

    def __init__(self, config: Talk2DinoConfig) -> None:
        super().__init__()
        self.backbone = Backbone(config.backbone_shape)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the patches as a map."""
        _, patches = self.backbone(pixels)
        return cast(Tensor, patches)

    def with_attention(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patches, and the last block's attention logits of the class token (B, heads, h * w)."""
        return encode_with_attention(self, self.backbone.vit, pixels)


class Dinov3Patches(nn.Module):
    """The last block's patches after the final norm of DINOv3, whose positions are rotary.

    Shape: pixels (B, 3, H, W), sides multiples of the patch -> (B, D, h, w).
    """

    def __init__(self, config: Talk2DinoConfig) -> None:
        super().__init__()
        self.name, self.patch_size = config.backbone, config.patch_size
        self.backbone = create_backbone(config.backbone)
        self.prefix = int(cast(int, self.backbone.num_prefix_tokens))  # class token and registers

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the patches as a map."""
        tokens = cast(Tensor, self.backbone.forward_features(pixels))  # type: ignore[operator]
        size = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        return torch.unflatten(tokens[:, self.prefix :].transpose(1, 2), 2, size)  # (B, D, h, w)

    def with_attention(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patches, and the last block's attention logits of the class token (B, heads, h * w)."""
        return encode_with_attention(self, self.backbone, pixels)


def encode_with_attention(vision: nn.Module, vit: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Run a vision tower; return its patches and the class token's attention logits in the last block.

    Args:
        vision: returns patches.
        vit: its timm backbone.
        pixels: normalised pixels.

    Shape: pixels (B, 3, H, W) -> (B, D, h, w), (B, heads, h * w).
    """
    attention = cast(nn.Module, cast(nn.ModuleList, vit.blocks)[-1].attn)
    seen: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        patches = cast(Tensor, vision(pixels))
    finally:
        handle.remove()
    prefix = int(cast(int, vit.num_prefix_tokens))
    return patches, class_token_attention(attention, seen[0], prefix)
