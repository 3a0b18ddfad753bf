"""Compiled kernels of a bundle, as the manifest describes them: what it takes to launch one, no more.

The files are PTX, which the CUDA driver finishes for the GPU at hand. Their sha256 stand among the manifest's
files.
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
    """One parameter of a kernel's entry, in the order of the call."""

    name: str
    role: Literal["input", "integer", "output"]  # inputs and outputs are pointers, aligned to 16 bytes
    dtype: str  # of the value, or of what is pointed to


@dataclass(frozen=True)
class GridAxis:
    """How many programs an axis of the launch has: ``ceil(size / step)``."""

    size: int | str  # a number, or the name of a size: "batch", or an integer argument
    step: int

    def programs(self, sizes: Mapping[str, int]) -> int:
        """Count them for the given sizes."""
        size = sizes[self.size] if isinstance(self.size, str) else self.size
        return -(-size // self.step)


@dataclass(frozen=True)
class Kernel:
    """A kernel for one type of GPU, one precision and the shapes that it was compiled for.

    Triton's two hidden pointers at the end are cut off: the entry takes ``arguments`` and nothing else.
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


def choose_kernel(
    kernels: Sequence[Kernel], operator: Operator, *, gpu: str, dtype: str, constants: Mapping[str, int]
) -> Kernel:
    """Find the kernel for a GPU, a type and shapes.

    Raises:
        EngineError: there is none; the message names what there is.
    """
    named = [kernel for kernel in kernels if kernel.operator == operator]
    for kernel in named:
        if (kernel.gpu, kernel.dtype) == (gpu, dtype) and constants.items() <= kernel.constants.items():
            return kernel
    wanted = f"{gpu}, {dtype}, {', '.join(f'{key} {value}' for key, value in constants.items())}"
    gpus = sorted({kernel.gpu for kernel in named})
    raise EngineError(
        f"no kernel {operator} for {wanted}; the bundle's are for {', '.join(gpus) or 'no GPU'}; "
        f"export it again with --kernels {gpu}"
    )
