"""Kernels in a bundle: written, read back, chosen, and refused where they do not fit."""

import shutil
from dataclasses import replace

import pytest

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.bundle.bundle import load_bundle, write_bundle
from ovsdino_runtime.bundle.kernels import FUSED, GridAxis, Kernel, KernelArgument, choose_kernel
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.device.stages import AROUND, choose_kernels

GATE = Kernel(
    operator="PreservationGate",
    file="kernels/gate.ptx",
    entry="preservation_gate",
    gpu="sm_89",
    target="sm_89",
    ptx_version="8.0",
    dtype="float16",
    constants={"channels": 8, "area": 16},
    arguments=(KernelArgument("x", "input", "float16"), KernelArgument("out", "output", "float16")),
    grid=(GridAxis(128, 512), GridAxis("batch", 1), GridAxis(1, 1)),
    num_warps=4,
    shared_memory=0,
)


@pytest.fixture
def folder(staging, tmp_path):
    """The files of a bundle with a kernel."""
    folder = shutil.copytree(staging, tmp_path / "staging")
    (folder / "kernels").mkdir()
    (folder / GATE.file).write_text("PTX")
    return folder


def test_kernels_come_back_as_they_were_written(manifest, folder, tmp_path):
    bundle = write_bundle(tmp_path / "k.ovs", replace(manifest, kernels=(GATE,)), folder)
    assert load_bundle(bundle.path).manifest.kernels == (GATE,)
    assert GATE.file in bundle.manifest.files
    bundle.file(GATE.file).write_text("changed")
    with pytest.raises(BundleError, match=r"gate\.ptx: changed or damaged"):
        load_bundle(bundle.path)


def test_a_kernel_without_its_file_is_refused(manifest, staging, tmp_path):
    with pytest.raises(BundleError, match=r"kernels/gate\.ptx is not among its files"):
        write_bundle(tmp_path / "k.ovs", replace(manifest, kernels=(GATE,)), staging)


def test_a_kernel_is_chosen_by_gpu_type_and_shape():
    older, other = replace(GATE, gpu="sm_86", target="sm_86"), replace(GATE, dtype="float32")
    kernels = [older, GATE, other]
    wanted = {"gpu": "sm_89", "dtype": "float16", "constants": {"channels": 8}}
    assert choose_kernel(kernels, "PreservationGate", **wanted) is GATE
    for gpu in ("sm_90", "sm_103", "sm_110", "sm_121"):  # newer GPUs run the PTX of older ones
        assert choose_kernel(kernels, "PreservationGate", **(wanted | {"gpu": gpu})) is GATE
    assert choose_kernel(kernels, "PreservationGate", **(wanted | {"gpu": "sm_87"})) is older
    for change in ({"gpu": "sm_80"}, {"dtype": "bfloat16"}, {"constants": {"channels": 9}}):
        with pytest.raises(EngineError, match=r"are for sm_86, sm_89; export it again with --kernels sm_8"):
            choose_kernel(kernels, "PreservationGate", **(wanted | change))
    with pytest.raises(EngineError, match=r"no kernel DepthwiseBlock runs on .*are for no GPU"):
        choose_kernel(kernels, "DepthwiseBlock", **wanted)


def test_ptx_of_one_gpu_alone_is_not_chosen_for_a_newer_one():
    tied = replace(GATE, gpu="sm_90", target="sm_90a")
    wanted = {"dtype": "float16", "constants": {}}
    assert choose_kernel([tied], "PreservationGate", gpu="sm_90", **wanted) is tied
    for gpu in ("sm_89", "sm_100", "sm_120"):
        with pytest.raises(EngineError, match=f"no kernel PreservationGate runs on {gpu}.*sm_90a"):
            choose_kernel([tied], "PreservationGate", gpu=gpu, **wanted)


@pytest.mark.parametrize("gpu", [75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121])
def test_the_packaged_model_has_kernels_for_every_gpu_since_turing(gpu):
    bundle = load_bundle(find_bundle("nano"))
    around = choose_kernels(bundle, f"sm_{gpu}")
    assert set(around) == set(AROUND)
    fused = [
        choose_kernel(bundle.manifest.kernels, operator, gpu=f"sm_{gpu}", dtype="float16", constants={})
        for operator in FUSED
    ]
    newest = "sm_75" if gpu < 80 else "sm_80"
    assert {kernel.target for kernel in (*around.values(), *fused)} == {newest}


def test_a_grid_covers_every_value():
    assert [axis.programs({"batch": 5}) for axis in GATE.grid] == [1, 5, 1]
    assert [GridAxis(size, 512).programs({}) for size in (1, 512, 513)] == [1, 1, 2]
