"""A common interface of published models: pixels to features, and features to scores."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg.vlm import Vlm, take_half
from ovsdino.network.config import VITB14
from ovsdino.network.head import CosineHead
from ovsdino.zoo.config import Talk2DinoConfig, ZeroShotConfig, ZooConfig
from ovsdino.zoo.talk2dino import Dinov2Patches, Dinov3Patches

PLAIN_HEAD = replace(VITB14, logit_scale=1.0, logit_bias=0.0)  # the confidence is sigmoid(cosine)


class ZooNetwork(nn.Module):
    """A published vision tower with the interface of :class:`ovsdino.OVSDINO`.

    Args:
        config: settings of the model.
        vision: maps pixels (B, 3, S, S) to patches (B, D, h, w).

    Shape: pixels (B, 3, S, S), normalised with the config's mean and std -> features (B, D, h, w).
    """

    def __init__(self, config: ZooConfig, vision: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.vision = vision
        self.head = CosineHead(PLAIN_HEAD)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features, to be compared with text embeddings by cosine."""
        return cast(Tensor, self.vision(pixels))

    def score(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Return the cosines of N classes, pixels (B, 3, S, S) and text (N, D) -> (B, N, h, w)."""
        return cast(Tensor, self.head(self(pixels), text))


class HalfText(nn.Module):
    """One half of dino.txt's class embeddings, of unit length.

    Shape: ids (N, T) -> (N, D).
    """

    def __init__(self, vlm: Vlm, config: ZeroShotConfig) -> None:
        super().__init__()
        self.tower, self.config = vlm.text, config

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids."""
        half = take_half(self.tower(ids), self.config.vlm, self.config.protocol.half)
        return F.normalize(half.float(), dim=-1)


def build_talk2dino(config: Talk2DinoConfig) -> ZooNetwork:
    """Build the vision network of a Talk2DINO, without weights."""
    patches = Dinov2Patches if config.family == "dinov2" else Dinov3Patches
    return ZooNetwork(config, patches(config))


def zero_shot(vlm: Vlm, config: ZeroShotConfig) -> tuple[ZooNetwork, HalfText]:
    """Split a dino.txt into vision network and text tower; they share its weights."""
    return ZooNetwork(config, vlm.vision).eval(), HalfText(vlm, config).eval()
