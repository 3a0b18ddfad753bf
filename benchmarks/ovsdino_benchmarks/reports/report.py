"""Build the sections of a report: text, tables, plots and pictures; `render` formats them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path

from ovsdino_benchmarks.quality.gallery import find_gallery
from ovsdino_benchmarks.reports import plots, render
from ovsdino_benchmarks.reports.render import Section, Table
from ovsdino_benchmarks.results import results
from ovsdino_benchmarks.results.environment import Environment
from ovsdino_benchmarks.results.results import Baseline, Fresh, Latency, Quality, Stage, StageMedians
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.out_folder import check_out

MAX_CLASSES_DRAWN = 40
TITLE = "ovsdino: measurements"
QUALITY_HEADER = (
    *("data", "set", "photos", "model", "form", "mIoU", "mIoU (mmseg)", "Boundary mIoU"),
    "pixel accuracy",
)
QUALITY_NOTE = (
    "Percent. mIoU is the mean over the classes that the truth holds; mmseg's also counts, as 0, classes "
    "that were only predicted, which differs where a small set lacks some. Boundary IoU: Cheng et al. 2021, "
    "2 % of the diagonal, summed over the set."
)
LATENCY_HEADER = (
    *("model", "form", "photo", "classes", "way", "p50", "p90", "p99", "photos/s"),
    *("times", "start", "memory", "same"),
)
LATENCY_NOTE = (
    "End to end: from a photo's file to labels in memory, ms; the classes' embeddings are in memory after "
    "the warm-up. times: the way's median over the runtime's. start: a new process until its first labels, "
    "ms, all phrases in the text cache. memory: peak of the host above the loaded model, MB. same: pixels "
    "with the runtime's label, %. All ways ran in turns in one process; start and memory are of processes of "
    "their own."
)


@dataclass(frozen=True)
class PaperRow:
    """A model in a paper's table; mIoU in percent, None if the paper gives none."""

    model: str
    miou: tuple[float | None, ...]
    average: float | None


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper."""

    title: str
    source: str
    benchmarks: tuple[str, ...]
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True)
class Papers:
    """The packaged tables of the papers, for comparison."""

    tables: tuple[PaperTable, ...]


def write_report(sources: Sequence[Path], out: Path, *, gallery: bool = False) -> list[Path]:
    """Combine results into report.json, report.md and report.html.

    Args:
        sources: result files, or folders of them.
        out: folder of the three files.
        gallery: whether to include the pictures of `quality --gallery`.

    Raises:
        ResultError: there are no results, or they cannot be read.
    """
    check_out(out)
    report = results.join(map(results.load, sources))
    pictures = (
        [picture for source in sources for picture in find_gallery(source / "gallery")] if gallery else []
    )
    sections = [
        *_quality(report.quality),
        *_latency(report.latency),
        Section("Pictures", pictures=tuple(pictures)),
        _provenance([*report.quality, *report.latency]),
    ]
    sections = [section for section in sections if not section.empty]
    files = [out / f"report.{suffix}" for suffix in ("json", "md", "html")]
    results.save(report, files[0])
    files[1].write_text(render.to_markdown(TITLE, sections), encoding="utf-8")
    files[2].write_text(render.to_html(TITLE, sections), encoding="utf-8")
    return files


def load_papers() -> tuple[PaperTable, ...]:
    """Read the papers' tables."""
    text = (resources.files("ovsdino_benchmarks") / "data/papers.json").read_text(encoding="utf-8")
    return strict_json.parse(Papers, strict_json.loads(text)).tables


def _quality(measured: Sequence[Quality]) -> Iterable[Section]:
    if not measured:
        return
    rows = [
        (
            *(quality.data, quality.extent, str(quality.photos), quality.model, quality.form),
            *(
                _percent(share)
                for share in (quality.miou, quality.miou_all, quality.boundary_miou, quality.pixel_accuracy)
            ),
        )
        for quality in measured
    ]
    header = QUALITY_HEADER
    yield Section("Quality", (QUALITY_NOTE,), (Table(header, tuple(rows)),))
    for table in load_papers():
        if any(quality.data in table.benchmarks for quality in measured):
            yield _beside_paper(table, measured)
    yield Section("Protocols", tuple(_protocols(measured)))
    for quality in measured:
        if sum(row.pixels > 0 for row in quality.classes) <= MAX_CLASSES_DRAWN:
            yield Section(
                f"Classes of {quality.data}: {quality.model}, {quality.form}",
                plots=(plots.class_plot(quality),),
            )


def _protocols(measured: Sequence[Quality]) -> Iterable[str]:
    for protocol in dict.fromkeys(quality.protocol for quality in measured):
        data = ", ".join(dict.fromkeys(quality.data for quality in measured if quality.protocol == protocol))
        yield f"{data}: {protocol.describe()}. Source: {protocol.source}."


def _beside_paper(table: PaperTable, measured: Sequence[Quality]) -> Section:
    rows = [(row.model, *map(_number, row.miou), _number(row.average)) for row in table.rows]
    for model, form, protocol in dict.fromkeys(
        (quality.model, quality.form, quality.protocol.name) for quality in measured
    ):
        results = {
            quality.data: quality
            for quality in measured
            if (quality.model, quality.form, quality.protocol.name) == (model, form, protocol)
        }
        ours = [results.get(name) for name in table.benchmarks]
        if any(ours):
            whole = [100 * quality.miou_all for quality in ours if quality and quality.extent == "full set"]
            mean = f"{sum(whole) / len(whole):.1f}" if len(whole) == len(ours) else "-"
            name = f"measured: {model}, {form}, protocol {protocol}"
            rows.append((name, *map(_paper_cell, ours), mean))
    note = f"mIoU, percent. Source: {table.source}. * a subset, of so many photos: not comparable."
    header = ("model", *table.benchmarks, "average")
    return Section(f"Beside {table.title}", (note,), (Table(header, tuple(rows)),))


def _paper_cell(quality: Quality | None) -> str:
    if quality is None:
        return "-"
    return (
        f"{100 * quality.miou_all:.1f}"
        if quality.extent == "full set"
        else f"{100 * quality.miou:.1f}* ({quality.photos})"
    )


def _latency(measured: Sequence[Latency]) -> Iterable[Section]:
    if not measured:
        return
    header = LATENCY_HEADER
    rows = [row for latency in measured for row in _way_rows(latency)]
    skipped = dict.fromkeys(
        f"{way.how}: not measured with {latency.classes} classes at {latency.size}: {way.why}."
        for latency in measured
        for way in latency.skipped
    )
    yield Section(
        title="Latency, end to end",
        text=(LATENCY_NOTE, *skipped),
        tables=(Table(header, tuple(rows)),),
        plots=tuple(_sweeps(measured)),
    )
    yield from _engine_sections(measured)
    for latency in measured:
        yield _stage_section(latency)


def _way_rows(latency: Latency) -> Iterable[tuple[str, ...]]:
    base = (latency.model, latency.form, latency.size, str(latency.classes))
    t = latency.end_to_end
    figures = (
        *(_milliseconds(x) for x in (t.p50, t.p90, t.p99)),
        f"{latency.throughput:.2f}",
        "1.0",
        *_fresh(latency.fresh),
    )
    yield (*base, f"runtime ({latency.engine})", *figures, "")
    for way in latency.baselines:
        yield (*base, *_baseline_cells(way, latency))


def _engine_sections(measured: Sequence[Latency]) -> Iterable[Section]:
    """Show the runtime's stages on each engine, of cases in which it was measured on several."""
    names = [field.name for field in fields(StageMedians)]
    rows = []
    for latency in measured:
        ways = [(f"runtime ({latency.engine})", latency.medians, latency.joules)]
        ways += [(way.how, way.stages, way.joules) for way in latency.baselines if way.stages]
        if len(ways) > 1:
            base = (latency.model, latency.size, str(latency.classes))
            rows += [
                (
                    *base,
                    engine,
                    *(_milliseconds(getattr(stages, name)) for name in names),
                    "-" if joules is None else f"{joules:.2f}",
                )
                for engine, stages, joules in ways
                if stages is not None
            ]
    if rows:
        header = ("model", "photo", "classes", "engine", *names, "energy")
        note = (
            "Medians, ms, of the same rounds, by the runtime's own clock. merge includes refining where the "
            "model refines. energy: J of all packages a photo; - where it cannot be read."
        )
        yield Section("Engines, by stage", (note,), (Table(header, tuple(rows)),))


def _baseline_cells(way: Baseline, latency: Latency) -> tuple[str, ...]:
    t = way.times
    speed = f"{1000 / t.p50:.2f}", f"{t.p50 / latency.end_to_end.p50:.2f}"
    return (
        way.how,
        *(_milliseconds(x) for x in (t.p50, t.p90, t.p99)),
        *speed,
        *_fresh(way.fresh),
        _percent(way.agreement),
    )


def _fresh(fresh: Fresh | None) -> tuple[str, str]:
    if fresh is None:
        return "", ""
    return _milliseconds(fresh.load + fresh.first), f"{fresh.above:.0f}"


def _sweeps(measured: Sequence[Latency]) -> Iterable[str]:
    """Yield plots against the number of classes or the photo size, whichever varies, for each model form."""
    for form in dict.fromkeys((latency.model, latency.form) for latency in measured):
        latencies = [latency for latency in measured if (latency.model, latency.form) == form]
        has_memory = len([latency for latency in latencies if latency.fresh is not None]) > 1
        varies = (
            len({latency.classes for latency in latencies}) > 1,
            len({latency.size for latency in latencies}) > 1,
        )
        for pixels in (pixels for pixels in (False, True) if varies[pixels]):
            for memory in (False, True) if has_memory else (False,):
                yield plots.sweep_plot(latencies, memory=memory, pixels=pixels)


def _stage_section(latency: Latency) -> Section:
    title = f"Stages: {latency.model}, {latency.form}, {latency.size}, {latency.classes} classes"
    header = ("stage", "p50", "p90", "p99", "floor", "ratio", "the floor counts")
    note = (
        f"ms, after {latency.warmup} rounds of warm-up. {latency.windows} windows, {latency.batch} at once, "
        f"{latency.threads} threads, {latency.templates} templates. Floors: {latency.gflop:.1f} GFLOP of the "
        f"vision graph; matrix products reach {latency.gflops:.0f} GFLOP/s and copies "
        f"{latency.copy_gb_s:.1f} GB/s in this run. vision is the engine alone; no stage includes another."
    )
    rows = tuple(_stage_row(stage) for stage in latency.stages)
    return Section(
        title=title, text=(note,), tables=(Table(header, rows),), plots=(plots.stage_plot(latency),)
    )


def _stage_row(stage: Stage) -> tuple[str, ...]:
    t = stage.times
    ratio = f"{t.p50 / stage.floor:.1f}" if stage.floor else ""
    floor = "" if stage.floor is None else _milliseconds(stage.floor)
    return (stage.name, *(_milliseconds(x) for x in (t.p50, t.p90, t.p99)), floor, ratio, stage.floor_of)


def _provenance(measured: Sequence[Quality | Latency]) -> Section:
    machines = dict.fromkeys(describe_machine(result.environment) for result in measured)
    commands = dict.fromkeys(result.command for result in measured)
    return Section("Where and how", tuple(machines), commands=tuple(commands))


def describe_machine(e: Environment) -> str:
    """Return machine and versions of a measurement as one line of text."""
    packages = ", ".join(f"{name} {version}" for name, version in e.packages.items())
    return (
        f"{e.date}: {e.processor}, {e.processors} processors ({e.clock}), {e.memory_gb:.0f} GB, "
        f"load {e.load} at the start; {e.system}, Python {e.python}, {packages}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
