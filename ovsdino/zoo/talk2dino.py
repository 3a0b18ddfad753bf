"""Talk2DINO: patches of a frozen DINO, and CLIP's words projected to where those patches are."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.rope import create_backbone
from ovsdino.network.backbone import Backbone
from ovsdino.network.clip_text import ClipTextTower
from ovsdino.zoo.config import Talk2DinoConfig


class Projection(nn.Module):
    """From CLIP's text space to DINO's: ``Linear(tanh(Linear(x)))``.

    It was trained on text features of the length that CLIP gives them. Parameters carry the official names.

    Source: lorebianchi98/Talk2DINO, ``src/model.py: ProjectionLayer.project_clip_txt``.

    Args:
        clip_width: of a text feature.
        width: of DINO's patches.

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
    """Token ids to unit vectors among DINO's patches: CLIP, projection, length.

    Source: Talk2DINO, ``build_text_embedding``. With several templates the official code projects the mean
    of CLIP's features; here each prompt is projected and the mean is taken of unit vectors, so that prompts
    can be encoded one at a time. With one template the two are the same.

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
        """Encode token ids."""
        return F.normalize(self.projection(self.tower.encode_raw(ids)), dim=-1)


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


class Dinov3Patches(nn.Module):
    """The same of DINOv3, whose positions are rotary.

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
