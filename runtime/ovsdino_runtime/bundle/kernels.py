"""Compiled kernels of a bundle, as the manifest describes them: everything needed to launch one.

The files are PTX, which the CUDA driver compiles for the GPU. The manifest's ``files`` hold their sha256.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ovsdino_runtime.base.errors import EngineError

# Functions of the domain "ovsdino" in the graph, then what stands before and behind it.
Operator = Literal[
    "DepthwiseBlock",
    "DepthwiseBlockStride2",
    "PreservationGate",
    "UpsampleArgmax",
    "PhotoWindows",
    "CosineScores",
    "MergeArgmax",
]


@dataclass(frozen=True)
class KernelArgument:
    """A parameter of a kernel's entry function, in call order."""

    name: str
    role: Literal["input", "integer", "output"]  # inputs and outputs are pointers, aligned to 16 bytes
    dtype: str  # of the value, or of what is pointed to


@dataclass(frozen=True)
class GridAxis:
    """Number of programs along an axis of the launch grid: ``ceil(size / step)``."""

    size: int | str  # a number, or the name of a size: "batch", or an integer argument
    step: int

    def programs(self, sizes: Mapping[str, int]) -> int:
        """Return the number of programs for the given sizes."""
        size = sizes[self.size] if isinstance(self.size, str) else self.size
        return -(-size // self.step)


@dataclass(frozen=True)
class Kernel:
    """A kernel, compiled for one kind of GPU, one precision and fixed shapes.

    Triton's two hidden pointers at the end are removed: the entry function takes only ``arguments``.
    """

    operator: Operator
    file: str
    entry: str  # name of the function in the file
    gpu: str  # such as sm_89: the GPUs that it was compiled for
    target: str  # what the PTX says; with an "a" at its end no later GPU takes it
    ptx_version: str  # least version of PTX that the driver must know
    dtype: str  # of the features or scores
    constants: dict[str, int]  # shapes and the like that are compiled in
    arguments: tuple[KernelArgument, ...]
    grid: tuple[GridAxis, GridAxis, GridAxis]
    num_warps: int  # a block has 32 times as many threads
    shared_memory: int  # [bytes] dynamic, a block


FUSED: tuple[Operator, ...] = ("DepthwiseBlock", "DepthwiseBlockStride2", "PreservationGate")  # in the graph


def runs_on(target: str, gpu: str) -> bool:
    """Tell whether a GPU runs PTX of a target: PTX runs on its own and on all newer GPUs.

    A target with a letter at the end, such as "sm_90a", runs on exactly that GPU.

    Args:
        target: target of the PTX, such as "sm_80".
        gpu: compute capability of the GPU, such as "sm_89".
    """
    if target == gpu or target.rstrip("af") == gpu:
        return True
    return _generation(target) is not None and (_generation(target) or 0) <= (_generation(gpu) or 0)


def _generation(name: str) -> int | None:
    """Return 80 for "sm_80"; None for a target of exactly one GPU or an invalid one."""
    digits = name.removeprefix("sm_")
    return int(digits) if digits.isdigit() else None


def choose_kernel(
    kernels: Sequence[Kernel], operator: Operator, *, gpu: str, dtype: str, constants: Mapping[str, int]
) -> Kernel:
    """Find the kernel of an operator for a GPU, precision and shapes; of several, the newest target.

    Raises:
        EngineError: no kernel matches; the message lists the targets of the bundle.
    """
    named = [kernel for kernel in kernels if kernel.operator == operator]
    fitting = [
        kernel
        for kernel in named
        if runs_on(kernel.target, gpu)
        and kernel.dtype == dtype
        and constants.items() <= kernel.constants.items()
    ]
    if fitting:
        return max(fitting, key=lambda kernel: (kernel.gpu == gpu, _generation(kernel.gpu) or 0))
    wanted = ", ".join([gpu, dtype, *(f"{key} {value}" for key, value in constants.items())])
    targets = sorted({kernel.target for kernel in named})
    raise EngineError(
        f"no kernel {operator} runs on {wanted}; the bundle's are for {', '.join(targets) or 'no GPU'}; "
        f"export it again with --kernels {gpu}"
    )
