"""Simplify the operations between a transformer's products: fold LayerScale, write GELU for fusion.

Only for FP32 graphs: a LayerScale of 1e-5 that is folded into a weight would be lost in FP16.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from timm.layers.layer_scale import LayerScale
from timm.models.vision_transformer import Block
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

ROOT = 2**0.5


class FusableGelu(nn.Module):
    """``gelu(x) = x * (erf(x / sqrt(2)) + 1) * 0.5``, in the order that ONNX Runtime fuses with the bias.

    Shape: any, kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Activate."""
        return x * (torch.erf(x / ROOT) + 1) * 0.5


def fold_layerscale(model: Model) -> Model:
    """Fold each LayerScale into the linear layer before it, and write out GELU, in place.

    Args:
        model: a restated FP32 vision model.

    Returns:
        The same model, equal to about 1e-7.
    """
    for module in list(model.modules()):
        if isinstance(module, Block):
            fold_scale(module, "ls1", cast(nn.Linear, module.attn.proj))
            fold_scale(module, "ls2", cast(nn.Linear, module.mlp.fc2))
        for name, child in module.named_children():
            if type(child) is nn.GELU and child.approximate == "none":
                module.register_module(name, FusableGelu())
    return model


def fold_scale(block: Block, name: str, linear: nn.Linear) -> None:
    """Multiply a block's LayerScale into the preceding linear layer."""
    scale = getattr(block, name)
    if isinstance(scale, LayerScale):
        gamma = scale.gamma.detach()  # (C,)
        linear.weight = nn.Parameter(linear.weight.detach() * gamma[:, None], requires_grad=False)
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias.detach() * gamma, requires_grad=False)
        setattr(block, name, nn.Identity())
