"""The measurement of the fused kernels, on a CPU: the operators run their references there."""

import pytest
import torch
from click.testing import CliRunner

from ovsdino.kernels import ops
from ovsdino.network.config import VITB14
from ovsdino_benchmarks import cli
from ovsdino_benchmarks.cli import bench
from ovsdino_benchmarks.kernels import bench as kernel_bench
from ovsdino_benchmarks.kernels.bench import measure_kernels, require_gpu, take_turns
from ovsdino_benchmarks.kernels.cases import (
    DTYPES,
    KERNELS,
    KernelCase,
    KernelRequest,
    functions,
    list_cases,
    make_inputs,
    relative_error,
    upsample_then_argmax,
)
from ovsdino_benchmarks.kernels.clock import HostClock
from ovsdino_benchmarks.kernels.report import describe_kernel, write_kernel_report
from ovsdino_benchmarks.kernels.results import KernelBenchError, load_kernels
from ovsdino_benchmarks.results import results
from ovsdino_benchmarks.results.results import ResultError

SMALL = KernelRequest(
    model="nano",
    batches=(1,),
    classes=(5,),
    sizes=((64, 48),),
    repeats=3,
    warmup=1,
    compiled=False,
)


@pytest.fixture(autouse=True)
def small_copies(monkeypatch):
    monkeypatch.setattr(kernel_bench, "COPY_BYTES", 1 << 16)


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_bench, "COPY_BYTES", 1 << 16)
        return measure_kernels(SMALL, HostClock())


def test_the_cases_are_the_models_own_layers():
    request = KernelRequest(batches=(4,), dtypes=("fp16",), classes=(171,), sizes=((640, 480),))
    shapes = {(case.kernel, case.shape, case.numbers) for case in list_cases(request)}
    assert shapes == {
        ("depthwise_block", (4, 256, 32, 32), (32, 1)),  # SAE
        ("depthwise_block", (4, VITB14.structure_channels, 64, 64), (32, 2)),  # SMD
        ("preservation_gate", (4, 768, 32, 32), ()),
        ("upsample_argmax", (171, 32, 43), (480, 640)),  # 448x597 px in patches of 14
    }
    assert len(list_cases(KernelRequest())) == 3 * (3 * 3 + 2 * 3)


def test_every_case_of_every_precision_is_measured(measured):
    assert [(one.kernel, one.dtype) for one in measured.results] == [
        *(("depthwise_block", dtype) for dtype in DTYPES for _ in range(2)),
        *(("preservation_gate", dtype) for dtype in DTYPES),
        *(("upsample_argmax", dtype) for dtype in DTYPES),
    ]
    for one in measured.results:
        names = [way.name for way in one.ways]
        at_once = ["torch-at-once"] if one.kernel == "upsample_argmax" else []
        assert names == ["triton", "torch", *at_once]
        assert all(way.times.repeats == 3 and way.times.p50 > 0 for way in one.ways)
        assert all(way.error <= {"fp32": 1e-6, "fp16": 1e-3, "bf16": 4e-3}[one.dtype] for way in one.ways)
        assert one.floor == pytest.approx(one.megabytes / measured.copy_gb_s, rel=0.05, abs=1e-6)  # ms


def test_the_floor_counts_each_value_once(measured):
    found = {(one.kernel, one.dtype, one.size): round(one.megabytes * 1e6) for one in measured.results}
    values = 128 * 28 * 28  # nano's SAE, in and out, with its filters, scales and shifts
    assert found["depthwise_block", "fp16", "1x128x28x28, stride 1"] == 2 * (2 * values + 11 * 128)
    values = 192 * 28 * 28
    assert found["preservation_gate", "fp32", "1x192x28x28"] == 4 * (4 * values + 1)
    # 64x48 grows to 597x448 px, 38x28 patches; labels are uint16
    assert found["upsample_argmax", "fp32", "5x28x38 to 48x64"] == 4 * 5 * 28 * 38 + 2 * 48 * 64


@pytest.mark.parametrize("case", list_cases(SMALL), ids=lambda case: f"{case.kernel}-{case.dtype}")
def test_inputs_fit_their_kernel(case):
    inputs = make_inputs(case, "cpu")
    for tensor, again in zip(inputs, make_inputs(case, "cpu"), strict=True):
        assert torch.equal(tensor, again)
        assert (
            tensor.dtype == {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[case.dtype]
        )
    outputs = [function(*inputs, *case.numbers) for function in functions(case, compiled=False).values()]
    assert len({(out.shape, out.dtype) for out in outputs}) == 1


def test_all_classes_at_once_give_the_same_labels():
    logits = torch.randn(7, 5, 6)
    expected = ops.upsample_argmax(logits, 31, 40)
    assert relative_error(upsample_then_argmax(logits, 31, 40), expected) < 1e-3


def test_the_error_is_relative():
    expected = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    labels = torch.tensor([1, 2, 3, 4], dtype=torch.uint16)
    assert relative_error(torch.tensor([1, 2, 3, 5], dtype=torch.uint16), labels) == 0.25


def test_the_ways_take_turns():
    called = []
    clock = HostClock()
    works = {way: lambda way=way: called.append(way) for way in ("triton", "torch", "torch-compile")}
    laps = take_turns(works, clock, repeats=3, warmup=1)
    assert {way: len(times) for way, times in laps.items()} == dict.fromkeys(works, 3)
    rounds = [tuple(called[start : start + 3]) for start in range(0, 12, 3)]
    assert [one[0] for one in rounds] == ["triton", "torch", "torch-compile", "triton"]
    assert all(set(one) == set(works) for one in rounds)


@pytest.mark.slow
def test_a_compiled_reference_is_measured_too():
    request = KernelRequest(**{**vars(SMALL), "kernels": ("preservation_gate",), "dtypes": ("fp32",)})
    (one,) = measure_kernels(KernelRequest(**{**vars(request), "compiled": True}), HostClock()).results
    assert [way.name for way in one.ways] == ["triton", "torch", "torch-compile"]
    assert one.ways[2].error < 1e-6


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    monkeypatch.setattr(ops, "preservation_gate", lambda x, *_: x)
    request = KernelRequest(**{**vars(SMALL), "kernels": ("preservation_gate",)})
    with pytest.raises(KernelBenchError, match=r"preservation_gate, fp32, 1x192x28x28: differs .* by 0\."):
        measure_kernels(request, HostClock())
    monkeypatch.setattr(ops, "preservation_gate", lambda x, *_: x * float("nan"))
    with pytest.raises(KernelBenchError, match="by nan"):
        measure_kernels(request, HostClock())


def test_a_kernel_that_does_not_run_ends_it_in_one_line(monkeypatch):
    def fails(*_):
        raise RuntimeError("no such type here\nand more")

    monkeypatch.setattr(ops, "preservation_gate", fails)
    request = KernelRequest(**{**vars(SMALL), "kernels": ("preservation_gate",)})
    with pytest.raises(
        KernelBenchError, match=r"1x192x28x28: the kernel does not run here: no such type here$"
    ):
        measure_kernels(request, HostClock())


def test_a_way_without_room_is_left_out_and_named(monkeypatch, tmp_path):
    def no_room(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nMore.")

    monkeypatch.setattr("ovsdino_benchmarks.kernels.cases.upsample_then_argmax", no_room)
    request = KernelRequest(**{**vars(SMALL), "kernels": ("upsample_argmax",), "dtypes": ("fp16",)})
    report = measure_kernels(request, HostClock())
    (one,) = report.results
    assert [way.name for way in one.ways] == ["triton", "torch"]
    text = write_kernel_report(report, tmp_path)[1].read_text(encoding="utf-8")
    assert "fp16, 5x28x38 to 48x64: CUDA out of memory. Tried to allocate 8 GiB.." in text


def test_the_report_says_what_was_measured(measured, tmp_path):
    files = write_kernel_report(measured, tmp_path)
    assert [file.name for file in files] == ["report.json", "report.md", "report.html"]
    assert load_kernels(files[0]) == measured
    text = files[1].read_text(encoding="utf-8")
    for kernel in KERNELS:
        assert f"## {kernel}" in text
    gate = next(one for one in measured.results if one.kernel == "preservation_gate")
    ratio = gate.ways[1].times.p50 / gate.ways[0].times.p50
    row = next(line for line in text.splitlines() if "fp32 | 1x192x28x28 | its reference" in line)
    assert f"| {ratio:.2f} |" in row
    assert "| 1.00 |" in next(line for line in text.splitlines() if "fp32 | 1x192x28x28 | the fused" in line)
    assert f"{gate.ways[0].times.p50 / gate.floor:.1f} x its floor, torch {ratio:.1f} x" in describe_kernel(
        gate
    )
    assert "Shapes of nano; 1 rounds of warm-up, 3 counted." in text


def test_a_report_of_kernels_is_not_one_of_latency(measured, tmp_path):
    write_kernel_report(measured, tmp_path)
    with pytest.raises(ResultError, match=r"report\.json"):
        results.load(tmp_path / "report.json")
    with pytest.raises(KernelBenchError, match="no such file; `ovsdino-bench kernels` writes one"):
        load_kernels(tmp_path / "nothing.json")
    (tmp_path / "old.json").write_text('{"schema_version": 0}', encoding="utf-8")
    with pytest.raises(KernelBenchError, match="schema_version 0, this program reads 1"):
        load_kernels(tmp_path / "old.json")


def test_the_commands_choices_are_those_that_can_be_measured():
    assert (cli.KERNELS, cli.DTYPES) == (KERNELS, DTYPES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    result = CliRunner().invoke(bench, ["kernels", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: the fused kernels need an NVIDIA GPU, and torch ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(KernelBenchError, match="sees none here"):
        require_gpu()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kernel", "softmax"), "'softmax' is not one of 'depthwise_block'"),
        (("--dtype", "fp8"), "'fp8' is not one of 'fp32', 'fp16', 'bf16'"),
        (("--batches", "0"), "'0' is not like 10,100,1000"),
        (("--sizes", "big"), "'big' is not like 640x480,1920x1080"),
    ],
)
def test_a_mistake_gets_one_line(options, message):
    result = CliRunner().invoke(bench, ["kernels", *options])
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_an_unknown_model_is_refused():
    with pytest.raises(KernelBenchError, match="unknown model 'vit'; known: ovsdino-vitb14"):
        list_cases(KernelRequest(model="vit"))


@pytest.mark.gpu
def test_a_gpu_is_measured_and_reported(tmp_path):
    options = (
        "--model",
        "nano",
        "--batches",
        "1",
        "--class-counts",
        "20",
        "--sizes",
        "640x480",
        "--repeats",
        "3",
    )
    result = CliRunner().invoke(bench, ["kernels", *options, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = load_kernels(tmp_path / "report.json")
    assert report.device.capability.startswith("sm_")
    for one in report.results:
        assert {way.name for way in one.ways} >= {"triton", "torch"}
        assert all(way.peak is not None for way in one.ways)


def test_a_case_describes_its_size():
    assert (
        KernelCase(kernel="depthwise_block", dtype="fp16", shape=(4, 8, 5, 5), numbers=(2, 2)).describe()
        == "4x8x5x5, stride 2"
    )
    assert KernelCase("preservation_gate", "fp16", (4, 8, 5, 5)).describe() == "4x8x5x5"
    assert (
        KernelCase(kernel="upsample_argmax", dtype="fp16", shape=(9, 8, 5), numbers=(48, 64)).describe()
        == "9x8x5 to 48x64"
    )
