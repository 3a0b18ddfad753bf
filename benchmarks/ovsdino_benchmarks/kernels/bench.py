"""``ovsdino-bench kernels``: measure each fused kernel against its reference and torch.compile, in turns."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ovsdino_benchmarks.kernels.cases import (
    WAYS,
    KernelCase,
    KernelRequest,
    KernelWay,
    Tensor,
    bytes_moved,
    functions,
    list_cases,
    make_inputs,
    relative_error,
)
from ovsdino_benchmarks.kernels.clock import Clock, CudaClock, Work
from ovsdino_benchmarks.kernels.report import write_kernel_report
from ovsdino_benchmarks.kernels.results import Dtype, KernelBenchError, KernelReport, KernelResult, WayTime
from ovsdino_benchmarks.results.environment import command, read_environment
from ovsdino_benchmarks.results.results import SkippedBaseline, Times
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.out_folder import check_out

Report = Callable[[str], None]
COPY_BYTES = 512 << 20
COPY_TRIES = 25  # the floor is the best of many
# How far from the reference in FP32 a kernel's result may be: rounding to the type, and of labels near ties.
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 8e-3}
LABEL_TOLERANCE = 1e-3


def run_kernels(request: KernelRequest, out: Path, report: Report) -> tuple[KernelReport, list[Path]]:
    """Measure on the GPU; write report.json, report.md and report.html into a folder.

    Raises:
        KernelBenchError: as `require_gpu` and `measure_kernels`.
    """
    check_out(out)
    require_gpu()
    measured = measure_kernels(request, CudaClock(), report)
    return measured, write_kernel_report(measured, out)


def require_gpu() -> None:
    """Check that torch has a CUDA device and that Triton is installed."""
    try:
        import torch
    except ImportError as error:
        raise KernelBenchError(f"the kernels need torch: {install_command('export,bench')}") from error
    from ovsdino.kernels.ops import has_triton

    if not torch.cuda.is_available():
        raise KernelBenchError(
            f"the fused kernels need an NVIDIA GPU, and torch {torch.__version__} sees none here; run this "
            "where there is one (`ovsdino doctor` says what this machine has)"
        )
    if not has_triton():
        raise KernelBenchError("the fused kernels need Triton, which is not installed: pip install triton")


def measure_kernels(request: KernelRequest, clock: Clock, report: Report = lambda _: None) -> KernelReport:
    """Measure every kernel at every size and precision.

    Args:
        request: what to measure.
        clock: measures time on the device. On a CPU the operators run their references.
        report: called with a short description of each step.

    Raises:
        KernelBenchError: there is no such model, or a kernel differs from its reference.
    """
    import torch

    cases = list_cases(request)
    environment = read_environment()
    with torch.inference_mode():
        report("copies")
        copy_gb_s = _copy_gb_s(clock)
        results = []
        for number, case in enumerate(cases, start=1):
            report(f"{number}/{len(cases)} {case.kernel} {case.dtype} {case.describe()}")
            results.append(measure_case(case, request, clock=clock, copy_gb_s=copy_gb_s))
    return KernelReport(
        model=request.model,
        device=clock.describe(),
        copy_gb_s=round(copy_gb_s, 1),
        warmup=request.warmup,
        results=tuple(results),
        command=command(),
        environment=environment,
    )


def measure_case(case: KernelCase, request: KernelRequest, *, clock: Clock, copy_gb_s: float) -> KernelResult:
    """Check the result of each implementation, then time them in turns."""
    inputs = make_inputs(case, clock.device)
    expected = _expected(case, inputs)
    works: dict[KernelWay, Work] = {}
    errors: dict[KernelWay, float] = {}
    peaks: dict[KernelWay, float | None] = {}
    skipped, moved = [], 0
    for way, function in functions(case, compiled=request.compiled).items():
        work = _bind(function, inputs, case)
        try:
            result = work()
            errors[way], moved = relative_error(result, expected), bytes_moved((*inputs, result))
            peaks[way] = clock.peak(work)
            works[way] = clock.prepare(work)
        except (RuntimeError, MemoryError) as error:  # no room for all scores, or torch's compiler fails
            why = (str(error).splitlines() or [type(error).__name__])[0]
            if way == "triton":
                what = f"{case.kernel}, {case.dtype}, {case.describe()}"
                raise KernelBenchError(f"{what}: the kernel does not run here: {why}") from error
            skipped.append(SkippedBaseline(way, WAYS[way], why))
    _require_right(case, errors["triton"])
    laps = take_turns(works, clock, repeats=request.repeats, warmup=request.warmup)
    ways = tuple(
        WayTime(name=way, how=WAYS[way], times=_percentiles(laps[way]), error=errors[way], peak=peaks[way])
        for way in works
    )
    floor = round(moved / copy_gb_s / 1e6, 6)
    return KernelResult(
        kernel=case.kernel,
        dtype=case.dtype,
        size=case.describe(),
        megabytes=round(moved / 1e6, 6),
        floor=floor,
        ways=ways,
        skipped=tuple(skipped),
    )


def take_turns(
    works: Mapping[KernelWay, Work], clock: Clock, *, repeats: int, warmup: int
) -> dict[KernelWay, list[float]]:
    """Time each implementation once per round [ms], in alternating order."""
    laps: dict[KernelWay, list[float]] = {way: [] for way in works}
    order = list(works)
    for lap in range(warmup + repeats):
        for way in order:
            milliseconds = clock.time(works[way])
            if lap >= warmup:
                laps[way].append(milliseconds)
        order = order[1:] + order[:1]
    return laps


def _percentiles(milliseconds: Sequence[float]) -> Times:
    """Return percentiles, to the nanosecond: a small kernel takes microseconds."""
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99)).round(6).tolist()
    return Times(p50=p50, p90=p90, p99=p99, repeats=len(milliseconds))


def _bind(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], case: KernelCase
) -> Callable[[], Tensor]:
    return lambda: function(*inputs, *case.numbers)


def _expected(case: KernelCase, inputs: tuple[Tensor, ...]) -> Tensor:
    """Compute the reference in FP32, on the CPU to avoid TF32; labels on the device, as they take long."""
    from ovsdino.kernels import reference

    device = "cpu" if case.kernel != "upsample_argmax" else inputs[0].device
    exact = [tensor.to(device).float() for tensor in inputs]
    return getattr(reference, case.kernel)(*exact, *case.numbers)


def _require_right(case: KernelCase, error: float) -> None:
    limit = LABEL_TOLERANCE if case.kernel == "upsample_argmax" else TOLERANCE[case.dtype]
    if not error <= limit:  # NaN is wrong, too
        raise KernelBenchError(
            f"{case.kernel}, {case.dtype}, {case.describe()}: differs from its reference by {error:.2g}, at "
            f"most {limit:g}; a wrong kernel is not timed: run `pytest -m gpu tests/kernels`"
        )


def _copy_gb_s(clock: Clock) -> float:
    import torch

    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    work = clock.prepare(lambda: target.copy_(source))
    return 2 * COPY_BYTES / min(clock.time(work) for _ in range(COPY_TRIES)) / 1e6
