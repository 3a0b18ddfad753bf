"""The vision-language model of dinov3.seg: a vision and a text tower with a common space."""

from __future__ import annotations

from torch import Tensor, nn

from ovsdino.dinov3seg.clip_vision import ClipVision
from ovsdino.dinov3seg.config import Half, VlmConfig
from ovsdino.dinov3seg.dinotxt_text import build_text
from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision
from ovsdino.network.head import cosine


class Vlm(nn.Module):
    """dino.txt, or CLIP instead: compares ``vision(pixels)`` with ``text(ids)`` by cosine.

    By itself it is the zero-shot segmenter from which dinov3.seg starts; see `ovsdino.dinov3seg.zero_shot`.

    Args:
        config: a preset of :data:`ovsdino.dinov3seg.presets.VLM_PRESETS`, or your own configuration.

    Shape: pixels (B, 3, H, W), class embeddings (N, text width) -> cosines of one half (B, N, h, w).
    """

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = DinoTxtVision(config) if config.kind == "dinotxt" else ClipVision(config)
        self.text = build_text(config)

    def forward(self, pixels: Tensor, text: Tensor, half: Half = "local") -> Tensor:
        """Return the cosine of every patch with one half of every class embedding."""
        return cosine(self.vision(pixels), take_half(text, self.config, half))


def take_half(text: Tensor, config: VlmConfig, half: Half) -> Tensor:
    """Return one half of class embeddings; CLIP has only one. Shape: (..., text width) -> (..., D)."""
    if config.halves == 1:
        return text
    return text[..., : config.width] if half == "global" else text[..., config.width :]
