"""The OVS-DINO network, composed of its parts."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from ovsdino.network.backbone import Backbone
from ovsdino.network.config import ModelConfig
from ovsdino.network.head import CosineHead
from ovsdino.network.structure_decoder import PreservationGate, StructureModulatedDecoder
from ovsdino.network.structure_encoder import StructureAwareEncoder


class Encoded(NamedTuple):
    """Outputs of a forward pass that training needs: features, and the structure map aligned with SAM's."""

    features: Tensor  # (B, D, h, w)
    structure: Tensor  # (B, S, 2h, 2w)


class OVSDINO(nn.Module):
    """Structure-aligned SAM-DINO with language guidance.

    ``taps, x = backbone(pixels)``; ``s = SAE(taps)``; ``x = gate(x, SMD(s))``; ``features = projector(x)``.
    The cosine ``head`` compares the features with text embeddings. SAM is only the target of ``s`` in
    training.

    Example:
        >>> import torch
        >>> from ovsdino import OVSDINO, PRESETS
        >>> network = OVSDINO(PRESETS["nano"])  # random weights; `load_model` loads trained ones
        >>> network(torch.zeros(1, 3, 448, 448)).shape
        torch.Size([1, 384, 28, 28])

    Source: OVS-DINO (arXiv 2604.08461), section 3.

    Args:
        config: a preset of :data:`ovsdino.network.config.PRESETS`, or your own configuration.

    Shape: pixels (B, 3, S, S), normalised with the config's mean and std -> features (B, D, h, w).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.structure_encoder = StructureAwareEncoder(config) if config.encoder else None
        self.structure_decoder = StructureModulatedDecoder(config)
        self.gate = PreservationGate(config) if config.gate else None
        kernel = config.projector_kernel
        self.projector = nn.Conv2d(config.backbone_width, config.text_width, kernel, padding=kernel // 2)
        self.head = CosineHead(config)

    def forward(self, pixels: Tensor, structure: Tensor | None = None) -> Tensor:
        """Return the features, to be compared with text embeddings by cosine."""
        return self.encode(pixels, structure).features

    def encode(self, pixels: Tensor, structure: Tensor | None = None) -> Encoded:
        """Return features and structure map; ``structure`` (B, S, 2h, 2w) replaces the SAE's (Table 4)."""
        taps, x = self.backbone(pixels)  # K x (B, C, h, w), (B, C, h, w)
        if structure is None:
            if self.structure_encoder is None:
                raise ValueError(f"{self.config.name} has no encoder: give SAM's features as `structure`")
            structure = cast(Tensor, self.structure_encoder(taps))  # (B, S, 2h, 2w)
        modulation = self.structure_decoder(structure)  # (B, C, h, w)
        x = modulation if self.gate is None else self.gate(x, modulation)  # (B, C, h, w)
        return Encoded(features=self.projector(x), structure=structure)  # (B, D, h, w)

    def score(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Return the logits of N classes, pixels (B, 3, S, S) and text (N, D) -> (B, N, h, w)."""
        return cast(Tensor, self.head(self(pixels), text))
