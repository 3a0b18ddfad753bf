"""A linear layer with an additional guidance input, for queries and keys."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GuidedLinear(nn.Linear):
    """``linear([x ; g])``, computed as ``W_x x + W_g g + b``, so that a shared guidance is projected once.

    Source: CAT-Seg, ``WindowAttention`` and ``AttentionLayer`` (concatenation into queries and keys only).

    Args:
        width: width of input and output.
        guidance: width of the guidance; 0 for no guidance.

    Shape: x (..., width), guidance (..., guidance width), which broadcast -> (..., width).
    """

    def __init__(self, width: int, guidance: int) -> None:
        super().__init__(width + guidance, width)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:  # type: ignore[override]
        """Project input and guidance, and add them."""
        width = x.shape[-1]
        mapped = F.linear(x, self.weight[:, :width], self.bias)
        return mapped if guidance is None else mapped + F.linear(guidance, self.weight[:, width:])
