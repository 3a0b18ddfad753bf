"""Write the report of a load test: JSON and Markdown."""

from collections.abc import Iterator
from pathlib import Path

from ovsdino_benchmarks.load.load import LoadReport
from ovsdino_benchmarks.reports import render
from ovsdino_benchmarks.reports.render import Section, Table
from ovsdino_benchmarks.reports.report import describe_machine
from ovsdino_benchmarks.results import results


def write_load_report(report: LoadReport, out: Path) -> list[Path]:
    """Write load.json and load.md into a folder."""
    files = [out / "load.json", out / "load.md"]
    results.save(report, files[0])
    files[1].write_text(render.to_markdown("ovsdino: load on a server", _sections(report)), encoding="utf-8")
    return files


def describe_load(report: LoadReport) -> str:
    """Return a report as one line of text."""
    times, statuses = report.times, ", ".join(f"{name}: {count}" for name, count in report.statuses.items())
    memory = f", memory {report.memory_first} to {report.memory_last} MB" if report.memory_first else ""
    return (
        f"{report.clients} clients, {report.seconds:.0f} s: p50 {times.p50:.0f} ms, p99 {times.p99:.0f} ms, "
        f"{report.throughput:.2f} a second; {statuses}{memory}"
    )


def _sections(report: LoadReport) -> Iterator[Section]:
    header = ("answers", "p50 [ms]", "p90 [ms]", "p99 [ms]", "slowest [ms]", "a second")
    t = report.times
    row = (
        str(sum(report.statuses.values())),
        *(f"{value:.0f}" for value in (t.p50, t.p90, t.p99, report.slowest)),
        f"{report.throughput:.2f}",
    )
    statuses = ", ".join(f"{name}: {count}" for name, count in report.statuses.items())
    memory = "The server does not say how much memory it has."
    if report.memory_first and report.memory_last and report.memory_peak:
        first, last, peak = (
            round(mb) for mb in (report.memory_first, report.memory_last, report.memory_peak)
        )
        memory = f"Memory of the server: {first} MB at the start, {last} MB at the end, at most {peak} MB."
    yield Section("In all", (f"By status: {statuses}.", memory), (Table(header, (row,)),))
    minutes = tuple(
        (
            str(number),
            str(minute.answers),
            *(f"{value:.0f}" for value in ((minute.times.p50, minute.times.p99) if minute.times else ())),
            *(() if minute.times else ("-", "-")),
            "-" if minute.memory is None else f"{minute.memory:.0f}",
        )
        for number, minute in enumerate(report.minutes, 1)
    )
    yield Section(
        "Minute by minute",
        tables=(Table(("minute", "answers", "p50 [ms]", "p99 [ms]", "memory [MB]"), minutes),),
    )
    how = (
        f"{report.model} on {report.engine}, at {report.url}. {report.clients} clients, each asking again "
        f"when it is answered, for {report.seconds:.0f} s; {len(report.photos)} photos "
        f"({', '.join(report.photos)}) with {len(report.classes)} word lists in turns, answered as "
        f"{report.format}. Times are those of the good answers, as the clients saw them."
    )
    words = tuple(f"Words: {classes}" for classes in report.classes)
    yield Section(
        "Where and how", (how, *words, describe_machine(report.environment)), commands=(report.command,)
    )
