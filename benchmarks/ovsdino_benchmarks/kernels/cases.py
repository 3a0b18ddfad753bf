"""Cases for measuring the fused kernels: shapes of a model's layers, and the implementations to compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ovsdino_benchmarks.kernels.results import Dtype, KernelName
from ovsdino_runtime.geometry.preprocess import Preprocessing, fit_size

Tensor = Any  # torch.Tensor; torch is imported when something is measured
KernelWay = Literal["triton", "torch", "torch-at-once", "torch-compile"]
WAYS: dict[KernelWay, str] = {
    "triton": "the fused kernel",
    "torch": "its reference in torch eager",
    "torch-at-once": "torch eager, all classes upsampled at once, then argmax",
    "torch-compile": "torch.compile of the reference; of the one at once for upsample_argmax",
}
KERNELS: tuple[KernelName, ...] = get_args(KernelName)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
TORCH_NAMES: dict[Dtype, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class KernelCase:
    """A kernel at one size and precision."""

    kernel: KernelName
    dtype: Dtype
    shape: tuple[int, ...]  # of the features (B, C, h, w), or of the scores (N, h, w)
    numbers: tuple[int, ...] = ()  # groups and stride, or height and width of the labels [px]

    def describe(self) -> str:
        """Return the size as text."""
        size = "x".join(map(str, self.shape))
        if self.kernel == "depthwise_block":
            return f"{size}, stride {self.numbers[1]}"
        return f"{size} to {self.numbers[0]}x{self.numbers[1]}" if self.numbers else size


@dataclass(frozen=True, kw_only=True)
class KernelRequest:
    """The kernels, sizes and precisions to measure."""

    model: str = "ovsdino-vitb14"  # a preset: its widths and grids
    kernels: tuple[KernelName, ...] = KERNELS
    dtypes: tuple[Dtype, ...] = DTYPES
    batches: tuple[int, ...] = (1, 4, 16)  # windows at once
    classes: tuple[int, ...] = (20, 171, 1000)
    sizes: tuple[tuple[int, int], ...] = ((640, 480), (1920, 1080))  # of photos: width, height [px]
    repeats: int = 50
    warmup: int = 5
    compiled: bool = True


def list_cases(request: KernelRequest) -> list[KernelCase]:
    """List every kernel at every size and precision.

    Raises:
        KernelBenchError: there is no such model.
    """
    from ovsdino.network.config import PRESETS
    from ovsdino_benchmarks.kernels.results import KernelBenchError

    if request.model not in PRESETS:
        raise KernelBenchError(f"unknown model {request.model!r}; known: {', '.join(PRESETS)}")
    config = PRESETS[request.model]
    grid, fine = config.grid, 2 * config.grid
    cases = []
    for dtype in request.dtypes:
        for batch in request.batches:
            encoder = (batch, config.encoder_width, grid, grid)
            decoder = (batch, config.structure_channels, fine, fine)
            groups = config.norm_groups
            cases += [
                KernelCase(kernel="depthwise_block", dtype=dtype, shape=encoder, numbers=(groups, 1)),
                KernelCase(kernel="depthwise_block", dtype=dtype, shape=decoder, numbers=(groups, 2)),
                KernelCase("preservation_gate", dtype, (batch, config.backbone_width, grid, grid)),
            ]
        for width, height in request.sizes:
            nodes = _score_grid(height, width, config.patch_size)
            cases += [
                KernelCase(
                    kernel="upsample_argmax", dtype=dtype, shape=(count, *nodes), numbers=(height, width)
                )
                for count in request.classes
            ]
    chosen = [case for case in cases if case.kernel in request.kernels]
    return sorted(chosen, key=lambda case: KERNELS.index(case.kernel))


def make_inputs(case: KernelCase, device: str) -> tuple[Tensor, ...]:
    """Draw the arguments of a kernel from a fixed seed."""
    import torch

    dtype = getattr(torch, TORCH_NAMES[case.dtype])
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device, dtype)

    if case.kernel == "depthwise_block":
        channels = case.shape[1]
        return draw(*case.shape), draw(channels, 1, 3, 3), draw(channels), draw(channels)
    if case.kernel == "preservation_gate":
        return draw(*case.shape), draw(*case.shape), draw(*case.shape), draw(1)
    return (draw(*case.shape),)


def functions(case: KernelCase, *, compiled: bool) -> dict[KernelWay, Callable[..., Tensor]]:
    """Return the implementations of a kernel, to be called with its tensors and numbers."""
    import torch

    from ovsdino.kernels import ops, reference

    usual: Callable[..., Tensor] = getattr(reference, case.kernel)
    ways: dict[KernelWay, Callable[..., Tensor]] = {"triton": getattr(ops, case.kernel), "torch": usual}
    if case.kernel == "upsample_argmax":
        ways["torch-at-once"] = usual = upsample_then_argmax
    if compiled:
        torch.compiler.reset()  # else it takes the second size for a dynamic one
        ways["torch-compile"] = torch.compile(usual, dynamic=False)
    return ways


def upsample_then_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """Upsample the scores of all classes, then take the best: (N, h, w) -> (height, width) uint16."""
    import torch
    import torch.nn.functional as F

    fine = F.interpolate(logits.float()[None], (height, width), mode="bilinear", align_corners=False)
    return fine[0].argmax(0).to(torch.uint16)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return ``|actual - expected| / |expected|``; for labels, the share of pixels that differ."""
    actual = actual.to(expected.device)
    if not expected.dtype.is_floating_point:
        return float((actual.int() != expected.int()).float().mean())
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def bytes_moved(tensors: Sequence[Tensor]) -> int:
    """Return the minimal memory traffic [bytes]: every input and the result once."""
    return sum(tensor.nbytes for tensor in tensors)


def _score_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    limits = Preprocessing()
    size = fit_size(height, width, short_side=limits.short_side, long_side=limits.long_side)
    return -(-size[0] // patch), -(-size[1] // patch)
