"""The fused kernels as quick-deployable, ahead-of-time compiled plugins of TensorRT 10.10 and later.

An engine built with them needs neither Python nor Triton. TensorRT compares the annotations of the nested
functions with its own types, so this file must not postpone annotations or write them as ``tuple[...]``.
"""

from dataclasses import dataclass, field
from typing import Any, Tuple, Union

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.bundle.kernels import FUSED, GridAxis, Kernel, Operator, choose_kernel, runs_on

NAMESPACE = "ovsdino"  # the domain of the graph's local functions


@dataclass
class Chosen:
    """The kernels of an operator for the network that is being built; replaced for each bundle."""

    kernels: tuple[Kernel, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)  # file -> PTX


CHOSEN: dict[Operator, Chosen] = {operator: Chosen() for operator in FUSED}
REGISTERED: set[Operator] = set()  # TensorRT takes each name once in a process


def register_plugins(bundle: Bundle, gpu: str) -> None:
    """Register the bundle's kernels, so that TensorRT's parser uses them for the graph's functions.

    Call it before parsing the graph, with a network created with ``PREFER_AOT_PYTHON_PLUGINS``. A second
    bundle in the same process replaces the first.

    Args:
        bundle: a bundle with kernels for the GPU.
        gpu: compute capability of the GPU, such as sm_89.

    Raises:
        EngineError: this TensorRT has no such plugins, or the bundle has no kernels for the GPU.
    """
    trt = find_tensorrt()
    for operator in FUSED:
        kernels = [k for k in bundle.manifest.kernels if k.operator == operator and runs_on(k.target, gpu)]
        if not kernels:
            raise EngineError(
                f"{bundle.path}: no kernel {operator} for {gpu}; export it again with --kernels {gpu}"
            )
        chosen = CHOSEN[operator]
        types = dict.fromkeys(kernel.dtype for kernel in kernels)
        chosen.kernels = tuple(
            choose_kernel(kernels, operator, gpu=gpu, dtype=dtype, constants={}) for dtype in types
        )
        chosen.sources = {k.file: bundle.file(k.file).read_text(encoding="ascii") for k in chosen.kernels}
        if operator not in REGISTERED:
            register = register_gate if operator == "PreservationGate" else register_depthwise_block
            register(trt, operator)
            REGISTERED.add(operator)


def find_tensorrt() -> Any:
    """Return TensorRT's plugin module.

    Raises:
        EngineError: TensorRT is missing, or older than 10.10.
    """
    try:
        import tensorrt as trt
        import tensorrt.plugin as plugin
    except ImportError as error:
        raise EngineError(
            f"the kernels need TensorRT 10.10 or later: {error}; {install_command('tensorrt')}"
        ) from error
    if not hasattr(trt, "QuickPluginCreationRequest") or not hasattr(plugin, "aot_impl"):
        raise EngineError(
            f"the kernels need TensorRT 10.10 or later, found {trt.__version__}; upgrade tensorrt"
        )
    return plugin


def register_depthwise_block(trt: Any, operator: Operator) -> None:
    """Register output shape and launch of the depthwise block; the operator fixes the stride."""
    stride = 2 if operator == "DepthwiseBlockStride2" else 1

    def describe(
        x: trt.TensorDesc, weight: trt.TensorDesc, gamma: trt.TensorDesc, beta: trt.TensorDesc
    ) -> Tuple[trt.TensorDesc]:
        out = x.like()
        if stride > 1:
            out.shape_expr[2] = trt.cdiv(x.shape_expr[2], stride)
            out.shape_expr[3] = trt.cdiv(x.shape_expr[3], stride)
        return (out,)

    def launch(
        x: trt.TensorDesc,
        weight: trt.TensorDesc,
        gamma: trt.TensorDesc,
        beta: trt.TensorDesc,
        outputs: Tuple[trt.TensorDesc],
        tactic: int,
    ) -> Tuple[Union[str, bytes], Union[str, bytes], trt.KernelLaunchParams, trt.SymExprs]:
        return launch_of(trt, operator, x)

    name = f"{NAMESPACE}::{operator}"
    trt.register(name)(describe)
    trt.aot_impl(name)(launch)


def register_gate(trt: Any, operator: Operator) -> None:
    """Register output shape and launch of the gate."""

    def describe(
        x: trt.TensorDesc, modulation: trt.TensorDesc, residual: trt.TensorDesc, alpha: trt.TensorDesc
    ) -> Tuple[trt.TensorDesc]:
        return (x.like(),)

    def launch(
        x: trt.TensorDesc,
        modulation: trt.TensorDesc,
        residual: trt.TensorDesc,
        alpha: trt.TensorDesc,
        outputs: Tuple[trt.TensorDesc],
        tactic: int,
    ) -> Tuple[Union[str, bytes], Union[str, bytes], trt.KernelLaunchParams, trt.SymExprs]:
        return launch_of(trt, operator, x)

    name = f"{NAMESPACE}::{operator}"
    trt.register(name)(describe)
    trt.aot_impl(name)(launch)


def launch_of(trt: Any, operator: Operator, x: Any) -> tuple[str, str, Any, Any]:
    """Return entry function, PTX, launch parameters and integers of the kernel for the type of x.

    Raises:
        EngineError: there is no kernel of this type, or it was compiled for another shape.
    """
    chosen = CHOSEN[operator]
    dtype = str(x.dtype).rpartition(".")[2].lower()  # DataType.HALF -> half
    named = {"half": "float16", "float": "float32", "bf16": "bfloat16"}.get(dtype, dtype)
    matching = [kernel for kernel in chosen.kernels if kernel.dtype == named]
    if not matching:
        raise EngineError(f"no kernel {operator} for {named}; export it again with that precision")
    kernel = matching[0]
    check_shape(kernel, x)
    parameters = trt.KernelLaunchParams()
    axes = [_programs(axis, x) for axis in kernel.grid]
    parameters.grid_x, parameters.grid_y, parameters.grid_z = axes
    parameters.block_x = kernel.num_warps * 32
    parameters.shared_mem = kernel.shared_memory
    return kernel.entry, chosen.sources[kernel.file], parameters, trt.SymIntExprs(0)


def check_shape(kernel: Kernel, x: Any) -> None:
    """Compare the sizes compiled into a kernel with those of its input (B, C, H, W).

    Raises:
        EngineError: they differ.
    """
    _, channels, height, width = (_constant(x.shape_expr[axis]) for axis in range(4))
    actual = {"channels": channels, "height": height, "width": width}
    if height is not None and width is not None:
        actual["area"] = height * width
    for name, size in actual.items():
        compiled = kernel.constants.get(name)
        if None not in (size, compiled) and size != compiled:
            raise EngineError(
                f"{kernel.operator}: compiled for {name} {compiled}, the network has {size}; export it again"
            )


def _constant(size: Any) -> Any:
    """Return a size that is known while the network is built; None if it varies or is not known yet.

    TensorRT asks for output types before it knows sizes; such a size is fake and fails on ``is_constant``.
    """
    if isinstance(size, int):
        return size
    if getattr(size, "is_fake", False):
        return None
    return size.constant_value() if getattr(size, "is_constant", False) else None


def _programs(axis: GridAxis, x: Any) -> Any:
    """Return the number of programs, or its expression in the batch size."""
    return x.shape_expr[0] if axis.size == "batch" else axis.programs({})
