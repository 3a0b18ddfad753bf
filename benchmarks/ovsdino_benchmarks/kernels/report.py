"""Write the report of a kernel benchmark: JSON, Markdown, HTML."""

from collections.abc import Iterator
from pathlib import Path

from ovsdino_benchmarks.kernels.results import KernelReport, KernelResult, MeasuredDevice, WayTime
from ovsdino_benchmarks.reports import render
from ovsdino_benchmarks.reports.render import Section, Table
from ovsdino_benchmarks.reports.report import describe_machine
from ovsdino_benchmarks.results import results

TITLE = "ovsdino: fused kernels"
HEADER = (
    *("type", "size", "way", "p50", "p90", "floor", "over the floor"),
    *("times the kernel", "error", "memory"),
)
NOTE = (
    "us on the device: the ways run in turns as CUDA graphs, each after the cache was overwritten: no launch "
    "and no cached input is in a figure. floor: every input and the result once, at the measured rate "
    "of copies. times the kernel: the way's median over the fused kernel's. error: relative to the reference "
    "in FP32 on the same inputs; of labels, the share that differs. memory: peak above the inputs, MB."
)


def write_kernel_report(report: KernelReport, out: Path) -> list[Path]:
    """Write report.json, report.md and report.html into a folder."""
    sections = list(_sections(report))
    files = [out / f"report.{suffix}" for suffix in ("json", "md", "html")]
    results.save(report, files[0])
    files[1].write_text(render.to_markdown(TITLE, sections), encoding="utf-8")
    files[2].write_text(render.to_html(TITLE, sections), encoding="utf-8")
    return files


def describe_kernel(result: KernelResult) -> str:
    """Return a result as one line of text."""
    fused, *others = result.ways
    ratios = "".join(f", {way.name} {way.times.p50 / fused.times.p50:.1f} x" for way in others)
    return (
        f"{result.kernel}, {result.dtype}, {result.size}: {_microseconds(fused.times.p50)} us, "
        f"{fused.times.p50 / result.floor:.1f} x its floor{ratios}"
    )


def _sections(report: KernelReport) -> Iterator[Section]:
    for kernel in dict.fromkeys(result.kernel for result in report.results):
        results = [result for result in report.results if result.kernel == kernel]
        rows = tuple(row for result in results for row in _rows(result))
        skipped = dict.fromkeys(
            f"Not measured: {way.how}, {result.dtype}, {result.size}: {way.why}."
            for result in results
            for way in result.skipped
        )
        yield Section(kernel, (NOTE, *skipped), (Table(HEADER, rows),))
    where = (
        f"{_describe_device(report.device)}; copies reach {report.copy_gb_s:.0f} GB/s, read and written. "
        f"Shapes of {report.model}; {report.warmup} rounds of warm-up, {_repeats(report)} counted."
    )
    yield Section("Where and how", (where, describe_machine(report.environment)), commands=(report.command,))


def _rows(result: KernelResult) -> Iterator[tuple[str, ...]]:
    for way in result.ways:
        yield (
            *(result.dtype, result.size, way.how),
            *(_microseconds(value) for value in (way.times.p50, way.times.p90, result.floor)),
            f"{way.times.p50 / result.floor:.2f}",
            f"{way.times.p50 / result.ways[0].times.p50:.2f}",
            f"{way.error:.1e}",
            _memory(way),
        )


def _describe_device(device: MeasuredDevice) -> str:
    if not device.capability:
        return device.name
    return (
        f"{device.name} ({device.capability}), {device.memory_gb:.0f} GB, cache {device.cache_mb:.0f} MB, "
        f"driver {device.driver}"
    )


def _repeats(report: KernelReport) -> str:
    return ", ".join(
        map(str, dict.fromkeys(way.times.repeats for result in report.results for way in result.ways))
    )


def _memory(way: WayTime) -> str:
    return "-" if way.peak is None else f"{way.peak:.1f}"


def _microseconds(milliseconds: float) -> str:
    return f"{1000 * milliseconds:.0f}" if milliseconds >= 0.1 else f"{1000 * milliseconds:.3g}"
