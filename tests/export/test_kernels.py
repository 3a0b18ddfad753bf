"""Kernels compiled ahead of time: for GPUs that are not here, with exactly the declared parameters."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ovsdino.network.config import NANO, PRESETS
from ovsdino_export.engines import kernels as kernels_module
from ovsdino_export.engines.kernels import (
    DEFAULT_GPUS,
    PTX_VERSIONS,
    compile_kernel,
    compile_kernels,
    default_gpus,
    parse_gpus,
    plan_depthwise_block,
    plan_device_kernels,
    plan_gate,
    plan_kernels,
)
from ovsdino_export.engines.ptx import describe_ptx, strip_hidden_params
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.kernels import runs_on

TINY = replace(NANO, image_size=64, backbone_width=64, encoder_width=32, structure_channels=32, norm_groups=8)
PTX = """
.version 8.0
.target sm_90a
.visible .entry f(
\t.param .u64 .ptr .global .align 1 f_param_0,
\t.param .u32 f_param_1,
\t.param .u64 .ptr .global .align 1 f_param_2
)
.reqntid 128
{
\tld.param.b64 %rd1, [f_param_0];
\tld.param.b32 %r1, [f_param_1];
}
"""


@pytest.fixture(scope="module")
def triton():
    return pytest.importorskip("triton")


def assemble(triton, ptx: str, target: str, folder: Path) -> None:
    """Run the assembler that comes with Triton; it fails on PTX that no driver would take."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    name = "ptxas-blackwell" if int(target.strip("sm_a")) >= 100 else "ptxas"
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    command = [ptxas, f"-arch={target}", source, "-o", folder / "kernel.cubin"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("gpu", PTX_VERSIONS)
def test_every_gpu_gets_ptx_that_it_takes(triton, gpu, tmp_path):
    plan = plan_gate(TINY, "float16")
    kernel, ptx = compile_kernel(plan, gpu)
    found = describe_ptx(ptx)
    assert found.entry == kernel.entry == "preservation_gate"
    assert len(found.parameters) == len(plan.arguments) == 5
    assert runs_on(found.target, gpu)
    assert found.version.replace(".", "") == str(PTX_VERSIONS[gpu])
    assert str(Path.cwd()) not in ptx
    assert ".loc" not in ptx
    assemble(triton, ptx, found.target, tmp_path)


def test_every_kernel_of_a_model_compiles(triton, tmp_path):
    plans = list(plan_kernels(TINY, ["fp16"]))
    assert [plan.operator for plan in plans] == [
        "DepthwiseBlock",
        "DepthwiseBlockStride2",
        "PreservationGate",
        "UpsampleArgmax",
        "PhotoWindows",
        "CosineScores",
        "MergeArgmax",
    ]
    said = []
    kernels = compile_kernels(plans, ["sm_89"], staging=tmp_path, report=said.append)
    assert said == ["compiling 7 kernels for sm_89"]
    for kernel in kernels:
        ptx = (tmp_path / kernel.file).read_text()
        assert len(describe_ptx(ptx).parameters) == len(kernel.arguments)
        assemble(triton, ptx, kernel.target, tmp_path)
    sizes = {"batch": 3, "out_width": 640, "out_height": 480}
    sizes |= {"width": 640, "height": 480, "area": 448**2, "classes": 171, "windows": 6}
    grids = [[axis.programs(sizes) for axis in kernel.grid] for kernel in kernels]
    assert grids[:4] == [[8, 3, 1], [8, 3, 1], [2, 3, 1], [3, 480, 1]]
    assert grids[4:] == [[392, 3, 1], [3136, 11, 6], [20, 15, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("gpu", PTX_VERSIONS)
def test_the_kernels_around_the_engine_compile_for_every_gpu(triton, gpu, tmp_path):
    for plan in plan_device_kernels():
        kernel, ptx = compile_kernel(plan, gpu)
        found = describe_ptx(ptx)
        assert runs_on(found.target, gpu)
        assert len(found.parameters) == len(plan.arguments)
        assert kernel.shared_memory <= 48 * 1024  # what every GPU gives without being asked
        assemble(triton, ptx, found.target, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_types_compile(triton, dtype):
    for plan in (
        plan_depthwise_block(32, 4, 8, stride=2, dtype=dtype),
        plan_gate(replace(TINY, gate_scale="channel"), dtype),
    ):
        kernel, _ = compile_kernel(plan, "sm_87")
        assert (kernel.gpu, kernel.target, kernel.dtype) == ("sm_87", "sm_87", dtype)


def test_sizes_of_one_compile_as_constants(triton):
    """Triton passes an integer argument of 1 as a constant when torch launches the kernel."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ovsdino.kernels import triton_kernels
    from ovsdino.kernels.ops import OPTIONS

    sizes = ("classes", "height", "width", "out_height", "out_width", "BLOCK")
    source = ASTSource(
        triton_kernels.upsample_argmax,
        signature={"logits": "*fp32", "labels": "*u16"} | dict.fromkeys(sizes, "constexpr"),
        constexprs=dict.fromkeys(sizes, 1) | {"BLOCK": 256},
    )
    assert "ptx" in triton.compile(source, target=GPUTarget("cuda", 89, 32), options=OPTIONS).asm


def test_files_of_a_model_have_names_of_their_own():
    for config in (PRESETS["nano"], PRESETS["ovsdino-vitb14"], replace(TINY, gate_form="tanh")):
        names = [plan.name for plan in plan_kernels(config, ["fp32", "fp16", "fp32"])]
        assert len(set(names)) == len(names)
        assert any("preservation_gate" in name for name in names) == (config.gate_form == "modulate")


def test_a_list_of_gpus_is_read_and_an_unknown_one_refused():
    assert parse_gpus(" sm_89, sm_86,sm_89") == ("sm_89", "sm_86")
    assert (parse_gpus("auto"), parse_gpus("none")) == (None, ())
    known = (
        "known: auto, none, sm_75, sm_80, sm_86, sm_87, sm_89, sm_90, sm_100, sm_103, sm_110, sm_120, sm_121"
    )
    for text, named in (("sm_88,sm_89", "'sm_88'"), ("rtx", "'rtx'"), (",", "','")):
        with pytest.raises(OvsdinoError, match=f"^--kernels: unknown GPU {named}; {known}$"):
            parse_gpus(text)


def test_the_default_kernels_assemble_for_every_known_gpu(triton, tmp_path):
    """PTX of sm_75 and of sm_80 runs on all that is newer."""
    for plan in [plan_gate(TINY, "float16"), *plan_device_kernels()]:
        for base in DEFAULT_GPUS:
            _, ptx = compile_kernel(plan, base)
            for gpu in (gpu for gpu in PTX_VERSIONS if runs_on(base, gpu)):
                assemble(triton, ptx, gpu, tmp_path)


def test_without_triton_the_default_is_no_kernels(monkeypatch):
    said = []
    assert default_gpus(said.append) == DEFAULT_GPUS
    monkeypatch.setattr(kernels_module, "has_triton", lambda: False)
    assert default_gpus(said.append) == ()
    assert said == [
        "triton is not installed: the bundle gets no kernels, and does not run with --device cuda"
    ]


def test_hidden_parameters_are_cut_off():
    stripped = strip_hidden_params(PTX, 2)
    assert describe_ptx(stripped).parameters == describe_ptx(PTX).parameters[:2]
    assert strip_hidden_params(stripped, 2) == stripped
    assert stripped.endswith(PTX[PTX.index(".reqntid") :])


def test_parameters_that_are_no_scratch_are_not_cut_off():
    with pytest.raises(OvsdinoError, match="f_param_1' is in use"):
        strip_hidden_params(PTX, 1)
    read = PTX.replace("[f_param_1]", "[f_param_2]")
    with pytest.raises(OvsdinoError, match="f_param_2' is in use"):
        strip_hidden_params(read, 2)
    with pytest.raises(OvsdinoError, match="f: 3 parameters, expected at least 4"):
        strip_hidden_params(PTX, 4)
    with pytest.raises(OvsdinoError, match="PTX with 0 entries"):
        strip_hidden_params("", 1)


def test_architecture_specific_targets_fit_one_gpu_only():
    assert runs_on("sm_80", "sm_89")
    assert not runs_on("sm_89", "sm_86")
    assert runs_on("sm_90a", "sm_90")
    assert not runs_on("sm_90a", "sm_100")
    assert not runs_on("sm_120a", "sm_100")
