"""The fused kernels as plugins of TensorRT 10.9 and later, quick-deployable and compiled ahead of time.

An engine that was built with them needs neither Python nor Triton. TensorRT reads the annotations of the
nested functions as types, and compares them with its own: this file must not postpone them, nor write them
as ``tuple[...]``.
"""

from typing import Any, Tuple, Union

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.bundle.kernels import GridAxis, Kernel, Operator

NAMESPACE = "ovsdino"  # the domain of the graph's local functions
PLUGINS: tuple[Operator, ...] = ("DepthwiseBlock", "DepthwiseBlockStride2", "PreservationGate")


def register_plugins(bundle: Bundle, gpu: str) -> None:
    """Register the bundle's kernels for a GPU: TensorRT's parser takes them for the graph's functions.

    Call it once in a process, before the graph is parsed, with a builder network made with
    ``PREFER_AOT_PYTHON_PLUGINS``.

    Args:
        bundle: exported with ``--kernels`` for this GPU.
        gpu: such as sm_89.

    Raises:
        EngineError: this TensorRT has no such plugins, or the bundle no kernels for the GPU.
    """
    trt = find_tensorrt()
    for operator in PLUGINS:
        kernels = [k for k in bundle.manifest.kernels if (k.operator, k.gpu) == (operator, gpu)]
        if not kernels:
            raise EngineError(
                f"{bundle.path}: no kernel {operator} for {gpu}; export it again with --kernels {gpu}"
            )
        sources = {kernel.file: bundle.file(kernel.file).read_text(encoding="ascii") for kernel in kernels}
        register = register_gate if operator == "PreservationGate" else register_depthwise_block
        register(trt, kernels, sources)


def find_tensorrt() -> Any:
    """Return TensorRT's plugin module.

    Raises:
        EngineError: TensorRT is absent, or older than 10.9.
    """
    try:
        import tensorrt as trt
        import tensorrt.plugin as plugin
    except ImportError as error:
        raise EngineError(
            f"the kernels need TensorRT 10.9 or later: {error}; {install_command('tensorrt')}"
        ) from error
    if not hasattr(trt, "QuickPluginCreationRequest") or not hasattr(plugin, "aot_impl"):
        raise EngineError(
            f"the kernels need TensorRT 10.9 or later, found {trt.__version__}; upgrade tensorrt"
        )
    return plugin


def register_depthwise_block(trt: Any, kernels: list[Kernel], sources: dict[str, str]) -> None:
    """Describe the block's output and launch; all kernels are of one stride."""
    stride = kernels[0].constants["stride"]

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
        return launch_of(trt, kernels, sources, x)

    name = f"{NAMESPACE}::{kernels[0].operator}"
    trt.register(name)(describe)
    trt.aot_impl(name)(launch)


def register_gate(trt: Any, kernels: list[Kernel], sources: dict[str, str]) -> None:
    """Describe the gate's output and launch."""

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
        return launch_of(trt, kernels, sources, x)

    name = f"{NAMESPACE}::{kernels[0].operator}"
    trt.register(name)(describe)
    trt.aot_impl(name)(launch)


def launch_of(
    trt: Any,
    kernels: list[Kernel],
    sources: dict[str, str],
    x: Any,
) -> tuple[str, str, Any, Any]:
    """Return the entry, the PTX, the launch and no integers, from the manifest's entry for x's type.

    Raises:
        EngineError: no kernel has this type.
    """
    dtype = str(x.dtype).rpartition(".")[2].lower()  # DataType.HALF -> half
    named = {"half": "float16", "float": "float32", "bf16": "bfloat16"}.get(dtype, dtype)
    matching = [kernel for kernel in kernels if kernel.dtype == named]
    if not matching:
        raise EngineError(f"no kernel {kernels[0].operator} for {named}; export it again with that precision")
    kernel = matching[0]
    parameters = trt.KernelLaunchParams()
    axes = [_programs(axis, x) for axis in kernel.grid]
    parameters.grid_x, parameters.grid_y, parameters.grid_z = axes
    parameters.block_x = kernel.num_warps * 32
    parameters.shared_mem = kernel.shared_memory
    return kernel.entry, sources[kernel.file], parameters, trt.SymIntExprs(0)


def _programs(axis: GridAxis, x: Any) -> Any:
    """Return a number, or the symbol of the batch; other names do not occur in the graph's kernels."""
    return x.shape_expr[0] if axis.size == "batch" else axis.programs({})
