"""Replace modules that engines cannot read or compute wrongly by equal ones."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from timm.layers.attention import Attention
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from ovsdino.network.backbone import Backbone
from ovsdino_export.rewrite.explicit_attention import ExplicitMultiheadAttention, from_multihead, from_timm
from ovsdino_export.rewrite.vit import from_eva

Model = TypeVar("Model", bound=nn.Module)


class FixedBackbone(Backbone):
    """The backbone with a constant position embedding, resized for the grid of its config.

    A bicubic resize in the graph differs between engines, and with antialias does not export at all.

    Shape: pixels (B, 3, S, S) -> as the backbone.
    """

    prefix: Tensor
    positions: Tensor

    def __init__(self, backbone: Backbone) -> None:
        nn.Module.__init__(self)
        self.config = backbone.config
        self.vit = backbone.vit
        size = (self.config.grid, self.config.grid)
        empty = torch.zeros(1, size[0] * size[1], self.config.backbone_width)
        placed = backbone.with_prefix(empty, size).detach()  # (1, P + h * w, C)
        self.register_buffer("prefix", placed[:, : self.vit.num_prefix_tokens].clone())
        self.register_buffer("positions", placed[:, self.vit.num_prefix_tokens :].clone())

    def with_prefix(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Add the fixed positions and prepend the prefix: (B, h * w, C) -> (B, P + h * w, C)."""
        if size != (self.config.grid, self.config.grid):
            raise ValueError(
                f"the exported grid is {self.config.grid} patches a side, got {size[0]}x{size[1]}"
            )
        prefix = self.prefix.expand(tokens.shape[0], -1, -1)  # (B, P, C)
        return torch.cat([prefix, tokens + self.positions], dim=1)


def restate(model: Model) -> Model:
    """Copy a model with its attentions written out and its position embedding fixed to its own grid.

    Args:
        model: any module; not changed.

    Returns:
        A copy in eval mode, equal to about 1e-6.

    Raises:
        ValueError: the model contains an attention that cannot be restated yet.
    """
    model = deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Backbone):
                module.register_module(name, FixedBackbone(child))
            elif type(child) is Attention:  # a subclass may compute something else
                module.register_module(name, from_timm(child))
            elif type(child) is EvaAttention:  # its grid is fixed by `rewrite_vit.fix_positions`
                module.register_module(name, from_eva(child))
            elif type(child) is nn.MultiheadAttention:
                module.register_module(name, ExplicitMultiheadAttention(from_multihead(child)))
    return model


def adopt(fixed: nn.Module, original: nn.Module) -> None:
    """Copy submodules and plain attributes from the module that ``fixed`` replaces."""
    nn.Module.__init__(fixed)
    fixed.__dict__.update(original.__dict__)
    for kind in ("_parameters", "_buffers", "_modules"):
        fixed.__dict__[kind] = dict(original.__dict__[kind])
