"""Late refinement of the costs: first across space, then across classes."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ovsdino.dinov3seg.class_refinement import ClassRefinement
from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.spatial_refinement import SpatialRefinement


class LateRefinement(nn.Module):
    """``classes(space(x))``; the network applies it twice.

    Source: dinov3.seg, section 3.

    Shape: x (B, N, C, h, w), image (B, G, h, w) or None, text (B, N, G), present (B, N) -> (B, N, C, h, w).
    """

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        self.space = SpatialRefinement(config)
        self.classes = ClassRefinement(config)

    def forward(self, x: Tensor, image: Tensor | None, *, text: Tensor, present: Tensor) -> Tensor:
        """Refine once."""
        return cast(Tensor, self.classes(self.space(x, image), text, present))
