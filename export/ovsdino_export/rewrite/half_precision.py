"""Convert a model to FP16 or BF16, except for layers that need FP32.

The conversion happens in torch, so that the graph contains the types. TensorRT 11 no longer has an FP16 flag,
and converters of finished graphs leave invalid casts (onnxconverter-common 207, 208, 320).
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ovsdino_export.rewrite.explicit_attention import ExplicitAttention
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.options import Precision

Model = TypeVar("Model", bound=nn.Module)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # their sums of squares overflow FP16
TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTION = "attention"  # stands for the products inside every attention


class Float32Part(nn.Module):
    """Compute a layer in FP32 inside a model of lower precision. The output has the type of the input.

    Shape: as the layer.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        return self.part(x.float()).to(x.dtype)  # type: ignore[no-any-return]


class Float32Norm(nn.Module):
    """Compute a normalisation in FP32. The output has the type of the input.

    Shape: any -> the same.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return self.norm(x.float()).to(x.dtype)  # type: ignore[no-any-return]


def to_half(model: Model, dtype: torch.dtype = torch.float16, *, fp32: Collection[str] = ()) -> Model:
    """Copy a restated model in FP16 or BF16. LayerNorm and GroupNorm stay in FP32.

    The softmax of `ovsdino_export.rewrite.rewrite.ExplicitAttention` stays in FP32 by itself.

    Args:
        model: a restated model; not changed.
        dtype: type of the copy.
        fp32: names of layers that stay in FP32; `ATTENTION` means the products in every attention.

    Raises:
        OvsdinoError: a weight is beyond FP16's range.
    """
    model = deepcopy(model)
    for attention in model.modules():
        if isinstance(attention, ExplicitAttention):
            attention.wide = ATTENTION in fp32
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NORMS):
                module.register_module(name, Float32Norm(child))
    parts = [keep_part(model, name) for name in fp32 if name != ATTENTION]
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    kept = {id(tensor) for part in (*parts, *norms) for tensor in (*part.parameters(), *part.buffers())}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) in kept or not tensor.is_floating_point():
            continue
        half = tensor.data.to(dtype)
        if not torch.isfinite(half).all():
            largest = tensor.abs().max().item()
            raise OvsdinoError(f"weight {name}: {largest:.3g} is beyond FP16's 65504; export without --fp16")
        tensor.data = half
    return model


def keep_part(model: nn.Module, name: str) -> nn.Module:
    """Wrap a layer so that it computes in FP32; return it."""
    above, _, own = name.rpartition(".")
    part = model.get_submodule(name)
    model.get_submodule(above).register_module(own, Float32Part(part))
    return part
