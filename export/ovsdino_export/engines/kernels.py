"""Compile the fused kernels of a model ahead of time to PTX for each requested GPU; needs no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovsdino.kernels.ops import BLOCK, NUM_WARPS, OPTIONS, ROW_BLOCK, group_launch, has_triton
from ovsdino.kernels.reference import EPSILON
from ovsdino.network.config import SAM_GRID_FACTOR, ModelConfig
from ovsdino.zoo.config import ZooConfig
from ovsdino_export.engines.ptx import describe_ptx, strip_hidden_params
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.kernels import GridAxis, Kernel, KernelArgument, Operator, runs_on

FOLDER = "kernels"
# PTX is written in the oldest version that has the GPU, 8.0 at least: drivers refuse what they do not know.
PTX_VERSIONS = {
    "sm_75": 80,
    "sm_80": 80,
    "sm_86": 80,
    "sm_87": 80,
    "sm_89": 80,
    "sm_90": 80,
    "sm_100": 86,
    "sm_103": 88,
    "sm_110": 90,
    "sm_120": 87,
    "sm_121": 88,
}
DEFAULT_GPUS = ("sm_75", "sm_80")  # their PTX runs on every newer GPU
ENTRIES: dict[Operator, str] = {
    "DepthwiseBlock": "depthwise_block",
    "DepthwiseBlockStride2": "depthwise_block",
    "PreservationGate": "preservation_gate",
    "UpsampleArgmax": "upsample_argmax",
    "PhotoWindows": "photo_windows",
    "CosineScores": "cosine_scores",
    "MergeArgmax": "merge_argmax",
}
POINTERS = {
    "float32": "*fp32",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "int32": "*i32",
    "uint16": "*u16",
    "uint8": "*u8",
}
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # of the vision graph -> of its features
AROUND: set[Operator] = {"PhotoWindows", "CosineScores", "MergeArgmax"}  # the engine, not in its graph
ONE = GridAxis(1, 1)
WINDOW_BLOCK = 512  # pixels of a window that a program of `photo_windows` makes
SCORES_BLOCK = (16, 64, 32)  # classes and nodes of a program of `cosine_scores`, channels at once
TILE = (32, 32, 16)  # rows and columns of a program of `merge_argmax` [px], nodes at once
ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class KernelPlan:
    """A kernel before it is compiled for a GPU; the fields are those of `Kernel`."""

    operator: Operator
    dtype: str
    constants: dict[str, int]
    arguments: tuple[KernelArgument, ...]
    grid: tuple[GridAxis, GridAxis, GridAxis]
    num_warps: int = NUM_WARPS

    @property
    def name(self) -> str:
        """Return a name that is unique among the plans of a model."""
        stride = f"-stride{self.constants['stride']}" if "stride" in self.constants else ""
        return f"{ENTRIES[self.operator]}{stride}-{self.dtype}"


def parse_gpus(text: str) -> tuple[str, ...] | None:
    """Parse ``--kernels``: "auto", "none", or a list such as "sm_86,sm_89".

    Returns:
        The GPUs; None for "auto", see `default_gpus`.

    Raises:
        OvsdinoError: a GPU is unknown, or Triton is not installed.
    """
    if text == "auto":
        return None
    if text == "none":
        return ()
    gpus = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [gpu for gpu in gpus if gpu not in PTX_VERSIONS]
    if unknown or not gpus:
        known = ", ".join(["auto", "none", *PTX_VERSIONS])
        raise OvsdinoError(f"--kernels: unknown GPU {unknown[0] if unknown else text!r}; known: {known}")
    if not has_triton():
        raise OvsdinoError("--kernels needs triton, which is not installed: pip install triton (on Linux)")
    return gpus


def default_gpus(report: Callable[[str], None]) -> tuple[str, ...]:
    """Return the GPUs for which kernels are compiled by default; none if Triton is not installed."""
    if has_triton():
        return DEFAULT_GPUS
    report("triton is not installed: the bundle gets no kernels, and does not run with --device cuda")
    return ()


def plan_kernels(config: ModelConfig | ZooConfig, precisions: Iterable[str]) -> Iterator[KernelPlan]:
    """Yield the kernels that a model's graphs can use, with the shapes of its configuration."""
    if isinstance(config, ModelConfig):
        yield from plan_fused_kernels(config, precisions)
    names = ("classes", "height", "width", "out_height", "out_width")
    yield KernelPlan(
        operator="UpsampleArgmax",
        dtype="float32",
        constants={"block": ROW_BLOCK},
        arguments=(
            KernelArgument("logits", "input", "float32"),
            *_integers(*names),
            KernelArgument("labels", "output", "uint16"),
        ),
        grid=(GridAxis("out_width", ROW_BLOCK), GridAxis("out_height", 1), ONE),
    )
    yield from plan_device_kernels()


def plan_fused_kernels(config: ModelConfig, precisions: Iterable[str]) -> Iterator[KernelPlan]:
    """Yield the kernels of OVS-DINO's blocks."""
    side = config.grid
    fine = side * SAM_GRID_FACTOR
    for dtype in dict.fromkeys(TYPES[precision] for precision in precisions if precision in TYPES):
        if config.encoder:
            yield plan_depthwise_block(config.encoder_width, side, config.norm_groups, stride=1, dtype=dtype)
        yield plan_depthwise_block(config.structure_channels, fine, config.norm_groups, stride=2, dtype=dtype)
        if config.gate and config.gate_form == "modulate":
            yield plan_gate(config, dtype)


def plan_device_kernels() -> Iterator[KernelPlan]:
    """Yield the kernels before and after the vision engine, which are the same for all models."""
    parts = {"lows": "int32", "shares": "float32", "starts": "int32", "weights": "float32"}
    sides = {f"{side}_{part}": kind for side in ("row", "column") for part, kind in parts.items()}
    yield KernelPlan(
        operator="PhotoWindows",
        dtype="float32",
        constants={"block": WINDOW_BLOCK},
        arguments=(
            *_inputs({"photo": "uint8"} | sides | {"colours": "float32"}),
            *_integers("width", "across", "first", "near", "row_taps", "column_taps", "antialias", "size"),
            KernelArgument("pixels", "output", "float32"),
        ),
        grid=(GridAxis("area", WINDOW_BLOCK), GridAxis("batch", 1), ONE),
    )
    classes, nodes, depth = SCORES_BLOCK
    yield KernelPlan(
        operator="CosineScores",
        dtype="float32",
        constants={"classes": classes, "nodes": nodes, "depth": depth},
        arguments=(
            *_inputs(dict.fromkeys(("features", "text"), "float32")),
            *_integers("first", "classes", "windows", "channels", "area"),
            KernelArgument("scores", "output", "float32"),
        ),
        grid=(GridAxis("area", nodes), GridAxis("classes", classes), GridAxis("windows", 1)),
    )
    yield _plan_merge()


def _plan_merge() -> KernelPlan:
    rows, columns, nodes = TILE
    tables = {"row_nodes": "int32", "row_weights": "float32", "column_nodes": "int32"}
    outputs = {"best": "float32", "labels": "uint16", "confidence": "float16"}
    return KernelPlan(
        operator="MergeArgmax",
        dtype="float32",
        constants={"rows": rows, "columns": columns, "nodes": nodes},
        arguments=(
            *_inputs({"scores": "float32"} | tables | {"column_weights": "float32", "head": "float32"}),
            *_integers("first", "classes", "last", "offset", "plane"),
            *_integers("row_count", "column_count", "height", "width"),
            *(KernelArgument(name, "output", dtype) for name, dtype in outputs.items()),
        ),
        grid=(GridAxis("width", columns), GridAxis("height", rows), ONE),
    )


def plan_depthwise_block(channels: int, side: int, groups: int, *, stride: int, dtype: str) -> KernelPlan:
    """Plan a depthwise block on square maps; scale and shift of the norm are FP32 in every graph."""
    types = {"x": dtype, "weight": dtype, "gamma": "float32", "beta": "float32"}
    shape = {"channels": channels, "height": side, "width": side, "groups": groups, "stride": stride}
    block, warps = group_launch(channels // groups * ((side - 1) // stride + 1) ** 2)
    return KernelPlan(
        operator="DepthwiseBlock" if stride == 1 else "DepthwiseBlockStride2",
        dtype=dtype,
        constants=shape | {"block": block},
        arguments=(*_inputs(types), KernelArgument("out", "output", dtype)),
        grid=(GridAxis(groups, 1), GridAxis("batch", 1), ONE),
        num_warps=warps,
    )


def plan_gate(config: ModelConfig, dtype: str) -> KernelPlan:
    """Plan the preservation gate of a model."""
    channels, area = config.backbone_width, config.grid**2
    per_channel = int(config.gate_scale == "channel")
    return KernelPlan(
        operator="PreservationGate",
        dtype=dtype,
        constants={"channels": channels, "area": area, "per_channel": per_channel, "block": BLOCK},
        arguments=(
            *_inputs(dict.fromkeys(("x", "modulation", "residual", "alpha"), dtype)),
            KernelArgument("out", "output", dtype),
        ),
        grid=(GridAxis(channels * area, BLOCK), GridAxis("batch", 1), ONE),
    )


def compile_kernels(
    plans: Iterable[KernelPlan], gpus: Iterable[str], *, staging: Path, report: Callable[[str], None]
) -> tuple[Kernel, ...]:
    """Compile every plan for every GPU.

    Args:
        plans: the plans of one model.
        gpus: as `parse_gpus` returns them.
        staging: folder in which ``kernels/`` is created.
        report: called for each GPU.

    Raises:
        OvsdinoError: a kernel needs scratch memory, or its PTX is for another GPU.
    """
    plans = list(plans)
    (staging / FOLDER).mkdir(exist_ok=True)
    kernels = []
    for gpu in gpus:
        report(f"compiling {len(plans)} kernels for {gpu}")
        for plan in plans:
            kernel, ptx = compile_kernel(plan, gpu)
            (staging / kernel.file).write_text(ptx, encoding="ascii")
            kernels.append(kernel)
    return tuple(kernels)


def compile_kernel(plan: KernelPlan, gpu: str) -> tuple[Kernel, str]:
    """Compile a plan for a GPU; return the manifest entry and the PTX."""
    compiled = _compile(plan, gpu)
    metadata = compiled.metadata
    scratch = metadata.global_scratch_size + metadata.profile_scratch_size
    if scratch:
        raise OvsdinoError(f"{plan.name} for {gpu}: needs {scratch} bytes of scratch memory, expected 0")
    ptx = strip_hidden_params(compiled.asm["ptx"], len(plan.arguments))
    described = describe_ptx(ptx)
    if not runs_on(described.target, gpu):
        raise OvsdinoError(f"{plan.name}: compiled for {described.target}, which {gpu} does not take")
    kernel = Kernel(
        operator=plan.operator,
        file=f"{FOLDER}/{plan.name}.{gpu}.ptx",
        entry=described.entry,
        gpu=gpu,
        target=described.target,
        ptx_version=described.version,
        dtype=plan.dtype,
        constants=plan.constants,
        arguments=plan.arguments,
        grid=plan.grid,
        num_warps=metadata.num_warps,
        shared_memory=metadata.shared,
    )
    return kernel, ptx


def _compile(plan: KernelPlan, gpu: str) -> Any:  # noqa: ANN401 - Triton's own type is private
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ovsdino.kernels import device_kernels, triton_kernels

    constants: dict[str, int | float] = {name.upper(): value for name, value in plan.constants.items()}
    if "groups" in plan.constants:
        constants["EPSILON"] = EPSILON
    types = {argument.name: _triton_type(argument) for argument in plan.arguments}
    source = ASTSource(
        getattr(device_kernels if plan.operator in AROUND else triton_kernels, ENTRIES[plan.operator]),
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(i,): ALIGNED for i, kind in enumerate(types.values()) if kind.startswith("*")},
    )
    target = GPUTarget("cuda", int(gpu.removeprefix("sm_")), 32)
    options = OPTIONS | {"num_warps": plan.num_warps, "ptx_version": PTX_VERSIONS[gpu]}
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # it holds paths of this machine
        return triton.compile(source, target=target, options=options)


def _inputs(types: dict[str, str]) -> list[KernelArgument]:
    return [KernelArgument(name, "input", dtype) for name, dtype in types.items()]


def _integers(*names: str) -> list[KernelArgument]:
    return [KernelArgument(name, "integer", "int32") for name in names]


def _triton_type(argument: KernelArgument) -> str:
    return "i32" if argument.role == "integer" else POINTERS[argument.dtype]
