"""Write FP16 into a model, where FP16 is enough.

Types are fixed here, in the module, so that the graph carries them: TensorRT 11 has no FP16 flag any more,
and converters of finished graphs leave invalid casts behind (onnxconverter-common 207, 208, 320).
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ovsdino_runtime.errors import OvsdinoError

Model = TypeVar("Model", bound=nn.Module)
NORMS = (nn.LayerNorm, nn.GroupNorm)  # their sums of squares overflow FP16


class Float32Norm(nn.Module):
    """A normalisation computed in FP32, whatever comes in; it returns the type that it got.

    Shape: any -> the same.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return self.norm(x.float()).to(x.dtype)  # type: ignore[no-any-return]


def to_half(model: Model) -> Model:
    """Copy a restated model in FP16: products and convolutions in half, LayerNorm and GroupNorm in FP32.

    The softmax of `ovsdino_export.rewrite.ExplicitAttention` stays in FP32 by itself.

    Raises:
        OvsdinoError: a weight is beyond FP16's range.
    """
    model = deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NORMS):
                module.register_module(name, Float32Norm(child))
    kept = {id(tensor) for norm in model.modules() if isinstance(norm, NORMS) for tensor in norm.parameters()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) in kept or not tensor.is_floating_point():
            continue
        half = tensor.data.to(torch.float16)
        if not torch.isfinite(half).all():
            largest = tensor.abs().max().item()
            raise OvsdinoError(f"weight {name}: {largest:.3g} is beyond FP16's 65504; export without --fp16")
        tensor.data = half
    return model
