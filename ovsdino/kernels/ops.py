"""The fused kernels as torch operators: Triton on CUDA, the reference on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ovsdino.kernels import reference

BLOCK = 512  # values a program of `preservation_gate` handles
GROUP_BLOCK = 8192  # most values of a group that a program of `depthwise_block` handles at once
GROUP_VALUES = 16  # of them, in a thread
ROW_BLOCK = 256  # pixels of a row that a program of `upsample_argmax` labels
NUM_WARPS = 4  # where nothing else is said
# Multiply-adds in one rounding. Named because Triton 3.10 changes its default, and 3.9 warns of that.
OPTIONS = {"num_warps": NUM_WARPS, "enable_fp_fusion": True}


@cache
def has_triton() -> bool:
    """Tell whether Triton is installed. On Linux, torch depends on it."""
    return find_spec("triton") is not None


def usable(x: Tensor) -> bool:
    """Tell whether the network should call the kernels: on CUDA, except in training and export."""
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_exporting() and has_triton()


def group_launch(values: int) -> tuple[int, int]:
    """Return block size and number of warps for `depthwise_block` with ``values`` outputs per group."""
    block = min(GROUP_BLOCK, 1 << (values - 1).bit_length())
    return block, max(1, block // (32 * GROUP_VALUES))


@torch.library.custom_op("ovsdino::depthwise_block", mutates_args=(), device_types="cpu")
def depthwise_block(
    x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, groups: int, stride: int
) -> Tensor:
    """Compute `reference.depthwise_block`, in one kernel if the tensors are on CUDA."""
    return reference.depthwise_block(x, weight, gamma, beta, groups, stride)


@depthwise_block.register_kernel("cuda")
def launch_depthwise_block(
    x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, groups: int, stride: int
) -> Tensor:
    """Run the Triton kernel; on a CPU this needs Triton's interpreter."""
    from ovsdino.kernels import triton_kernels

    x, weight, gamma, beta = (tensor.contiguous() for tensor in (x, weight, gamma, beta))
    batch, channels, height, width = x.shape
    out: Tensor = _depthwise_block_shape(x, weight, gamma, beta, groups, stride)
    block, warps = group_launch(out[0].numel() // groups)
    constants = (channels, height, width, groups, stride, reference.EPSILON, block)
    options = OPTIONS | {"num_warps": warps}
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        triton_kernels.depthwise_block[(groups, batch)](x, weight, gamma, beta, out, *constants, **options)
    return out


@depthwise_block.register_fake
def _depthwise_block_shape(
    x: Tensor,
    weight: Tensor,  # noqa: ARG001 - the operator's signature
    gamma: Tensor,  # noqa: ARG001
    beta: Tensor,  # noqa: ARG001
    groups: int,
    stride: int,
) -> Tensor:
    batch, channels, height, width = x.shape
    torch._check(channels % groups == 0, lambda: f"{channels} channels do not make {groups} equal groups")
    return x.new_empty(batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1)


@torch.library.custom_op("ovsdino::preservation_gate", mutates_args=(), device_types="cpu")
def preservation_gate(x: Tensor, modulation: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """Compute `reference.preservation_gate`, in one kernel if the tensors are on CUDA."""
    return reference.preservation_gate(x, modulation, residual, alpha)


@preservation_gate.register_kernel("cuda")
def launch_preservation_gate(x: Tensor, modulation: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """Run the Triton kernel; on a CPU this needs Triton's interpreter."""
    from ovsdino.kernels import triton_kernels

    x, modulation, residual = (tensor.contiguous() for tensor in (x, modulation, residual))
    batch, channels, height, width = x.shape
    out = torch.empty_like(x)
    grid = (-(-channels * height * width // BLOCK), batch)
    constants = (channels, height * width, int(alpha.numel() > 1), BLOCK)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        triton_kernels.preservation_gate[grid](x, modulation, residual, alpha, out, *constants, **OPTIONS)
    return out


@preservation_gate.register_fake
def _preservation_gate_shape(x: Tensor, modulation: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    torch._check(
        x.shape == modulation.shape == residual.shape,
        lambda: f"x, modulation and residual differ: {x.shape}, {modulation.shape}, {residual.shape}",
    )
    torch._check(
        alpha.numel() in (1, x.shape[1]), lambda: f"alpha has {alpha.numel()} values, expected 1 or C"
    )
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("ovsdino::upsample_argmax", mutates_args=(), device_types="cpu")
def upsample_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """Compute `reference.upsample_argmax`, in one kernel if the scores are on CUDA."""
    return reference.upsample_argmax(logits, height, width)


@upsample_argmax.register_kernel("cuda")
def launch_upsample_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """Run the Triton kernel; on a CPU this needs Triton's interpreter."""
    from ovsdino.kernels import triton_kernels

    labels: Tensor = _upsample_argmax_shape(logits, height, width)
    sizes = (*logits.shape, height, width)
    grid = (-(-width // ROW_BLOCK), height)
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        triton_kernels.upsample_argmax[grid](logits.contiguous(), *sizes, labels, ROW_BLOCK, **OPTIONS)
    return labels


@upsample_argmax.register_fake
def _upsample_argmax_shape(logits: Tensor, height: int, width: int) -> Tensor:
    max_count = reference.MAX_CLASSES
    torch._check(logits.shape[0] <= max_count, lambda: f"{logits.shape[0]} classes, labels hold {max_count}")
    return torch.empty((height, width), dtype=torch.uint16, device=logits.device)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG001
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.numbers = tuple(value for value in inputs if not isinstance(value, Tensor))


def _backward_of(compose: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    """Compute gradients with the reference: the kernels only have a forward pass."""

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        with torch.enable_grad():
            tensors = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            out = compose(*tensors, *ctx.numbers)
        return (*torch.autograd.grad(out, tensors, gradient), *(None for _ in ctx.numbers))

    return backward


depthwise_block.register_autograd(_backward_of(reference.depthwise_block), setup_context=_save_inputs)
preservation_gate.register_autograd(_backward_of(reference.preservation_gate), setup_context=_save_inputs)
