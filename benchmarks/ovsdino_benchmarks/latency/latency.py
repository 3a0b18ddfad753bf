"""Measure the end-to-end latency of the runtime and of baselines, in turns under the same conditions."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from ovsdino_benchmarks.datasets.protocol import templates_of
from ovsdino_benchmarks.latency.baselines import (
    BASELINES,
    DINOV3SEG_BASELINES,
    RuntimeWay,
    Way,
    WayName,
    open_way,
    why_not,
)
from ovsdino_benchmarks.latency.case import Case, LatencyRequest, choose_classes, make_photo
from ovsdino_benchmarks.latency.cold_start import ChildError, run_child
from ovsdino_benchmarks.latency.dinov3seg_stages import all_flops, time_dinov3seg
from ovsdino_benchmarks.latency.energy import EnergyMeter
from ovsdino_benchmarks.latency.roofline import measure_rates
from ovsdino_benchmarks.latency.stages import TimedEngine, summarise, time_stages
from ovsdino_benchmarks.model_variants import models
from ovsdino_benchmarks.results.environment import command, read_environment
from ovsdino_benchmarks.results.results import Baseline, Latency, SkippedBaseline, Stage, StageMedians, save
from ovsdino_benchmarks.results.results import Report as FileReport
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.out_folder import check_out
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.pipelines.host_stages import WINDOWS_AT_ONCE
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.encoder import TextEncoder

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Turns:
    """Measured times of all rounds of a way to run the model."""

    times: list[float]  # [ms]
    engine: str | None
    stages: StageMedians | None
    joules: float | None


def measure(request: LatencyRequest, report: Report = lambda _: None) -> Iterator[Latency]:
    """Measure every size with every number of classes.

    Args:
        request: what to measure.
        report: called with a short description of each step.

    Yields:
        Each result as soon as it is available.

    Raises:
        OvsdinoError: there is no such model, form or photo.
    """
    environment = read_environment()
    bundle = load_bundle(find_bundle(request.spec.model))
    threads = request.spec.threads or available_threads()
    report(f"matrix products and copies, {threads} threads")
    rates = measure_rates(models.PRECISIONS.get(request.spec.form, "fp32"), threads)
    first = True
    with scratch_folder("bench") as folder:
        for size in request.sizes:
            photo = make_photo(bundle, request.photo, size=size, folder=folder)
            for count in request.classes:
                case = Case(
                    request=request,
                    bundle=bundle,
                    rates=rates,
                    photo=photo,
                    threads=threads,
                    vocabulary=choose_classes(count),
                    environment=environment,
                    new_processes=request.new_processes == "all"
                    or (request.new_processes, first) == ("first", True),
                )
                first = False
                report(f"{size[0]}x{size[1]}, {count} classes")
                yield measure_case(case, report)


def write_latency(request: LatencyRequest, out: Path, report: Report) -> tuple[Path, list[Latency]]:
    """Measure, and write all results so far into a folder after each result; see `measure`."""
    check_out(out)
    measured: list[Latency] = []
    file = out
    for result in measure(request, report):
        measured.append(result)
        file = out / f"latency-{result.model}-{result.form}.json"
        save(FileReport(latency=tuple(measured)), file)
    return file, measured


def describe_latency(result: Latency) -> str:
    """Return a result as a few lines of text."""
    case = f"{result.size}, {result.windows} windows, {result.classes} classes, {result.threads} threads"
    lines = [
        f"{result.model}, {result.form}, {case}",
        f"  {'end to end':32}{result.end_to_end.p50:10.2f} ms, p99 {result.end_to_end.p99:.2f} ms",
    ]
    for stage in result.stages:
        floor = f"  {stage.times.p50 / stage.floor:6.1f} x its floor" if stage.floor else ""
        lines.append(f"  {stage.name:32}{stage.times.p50:10.2f} ms{floor}")
    if result.fresh is not None:
        lines.append(f"  {'new process, first labels':32}{result.fresh.load + result.fresh.first:10.2f} ms")
        lines.append(f"  {'memory above the model':32}{result.fresh.above:10.1f} MB")
    for way in result.baselines:
        above = "" if way.fresh is None else f", {way.fresh.above:.1f} MB above the model"
        ratio = way.times.p50 / result.end_to_end.p50
        lines.append(f"  {way.how}: p50 {way.times.p50:.1f} ms, {ratio:.2f} x the runtime's{above}")
    energy = "cannot be read here" if result.joules is None else f"{result.joules:.2f} J a photo"
    lines.append(f"  {'energy of the processor':32}{energy}")
    return "\n".join([*lines, *(f"  {way.how}: skipped, {way.why}" for way in result.skipped)])


def measure_case(case: Case, report: Report) -> Latency:
    """Measure one photo size with one number of classes."""
    spec = replace(case.request.spec, threads=case.threads)
    text = models.open_text(case.bundle, case.threads)
    templates = templates_of(case.job("runtime", Path()).protocol(case.bundle), case.bundle.manifest)
    dinov3seg = case.bundle.manifest.dinov3seg is not None
    segmenter, stages = (_time_dinov3seg if dinov3seg else _time_cosine)(
        case, text, templates=templates, report=report
    )
    embeddings = segmenter.encode_text(case.vocabulary)  # (N, D)
    with scratch_folder("bench") as folder:
        file = folder / "text.npy"
        np.save(file, embeddings)
        runtime, baselines, skipped = _compare(case, segmenter, text=file, report=report)
        fresh = None
        if case.new_processes:
            report("a new process: runtime")
            fresh = run_child(case.job("runtime", file), case.photo)
    photo = load_photo(case.photo)
    windows = segmenter.pipeline.prepare(photo).windows
    flops = all_flops(case, len(windows)) if dinov3seg else case.vision_flops(len(windows))
    return Latency(
        model=case.bundle.manifest.name,
        form=spec.form,
        engine=segmenter.vision.description,
        device="cpu",
        threads=case.threads,
        size=f"{photo.shape[1]}x{photo.shape[0]}",
        classes=len(case.vocabulary.classes),
        templates=len(templates),
        windows=len(windows),
        batch=WINDOWS_AT_ONCE,
        warmup=case.request.warmup,
        end_to_end=summarise(runtime.times),
        medians=runtime.stages,
        joules=runtime.joules,
        stages=stages,
        fresh=fresh,
        baselines=tuple(baselines),
        skipped=tuple(skipped),
        gflop=round(flops / 1e9, 3),
        gflops=round(case.rates.gflops, 1),
        copy_gb_s=round(case.rates.copy_gb_s, 1),
        command=command(),
        environment=case.environment,
    )


def _time_cosine(
    case: Case, text: TextEncoder, *, templates: Sequence[str], report: Report
) -> tuple[Segmenter, tuple[Stage, ...]]:
    spec = replace(case.request.spec, threads=case.threads)
    engine = TimedEngine(models.open_engine(case.bundle, spec, random_weights=True))
    segmenter = Segmenter(case.bundle, engine, text=text, templates=templates)
    report("text")
    segmenter.encode_text(case.vocabulary)
    report("stages")
    return segmenter, time_stages(case, segmenter, engine=engine, text=text)


def _time_dinov3seg(
    case: Case, text: TextEncoder, *, templates: Sequence[str], report: Report
) -> tuple[Segmenter, tuple[Stage, ...]]:
    spec = replace(case.request.spec, threads=case.threads)
    pipeline = models.open_dinov3seg(case.bundle, spec, random_weights=True)
    segmenter = Segmenter(case.bundle, pipeline.vision, text=text, templates=templates, pipeline=pipeline)
    report("text")
    segmenter.encode_text(case.vocabulary)
    report("stages")
    return segmenter, time_dinov3seg(case, segmenter, pipeline=pipeline, text=text)


def _compare(
    case: Case, segmenter: Segmenter, *, text: Path, report: Report
) -> tuple[_Turns, list[Baseline], list[SkippedBaseline]]:
    """Time the runtime and the baselines in turns, then each baseline in a new process if it is wanted."""
    ways: dict[WayName, Way] = {"runtime": RuntimeWay(segmenter, case.vocabulary)}
    skipped = _open_baselines(case, text, ways=ways, report=report)
    report("end to end: " + ", ".join(ways))
    labels = {way: label(case.photo) for way, label in ways.items()}
    turns = _take_turns(case, ways)
    ways.clear()  # their memory is not to weigh on the new processes
    baselines = []
    titles = _titles(case)
    for way in [way for way in labels if way != "runtime"]:
        fresh = None
        if case.new_processes:
            report(f"a new process: {titles[way]}")
            try:
                fresh = run_child(case.job(way, text), case.photo)
            except ChildError as error:
                skipped.append(SkippedBaseline(way, titles[way], str(error)))
                continue
        agreement = float((labels[way] == labels["runtime"]).mean())
        taken = turns[way]
        baselines.append(
            Baseline(
                name=way,
                how=titles[way],
                times=summarise(taken.times),
                fresh=fresh,
                agreement=agreement,
                engine=taken.engine,
                stages=taken.stages,
                joules=taken.joules,
            )
        )
    return turns["runtime"], baselines, skipped


def _open_baselines(
    case: Case, text: Path, *, ways: dict[WayName, Way], report: Report
) -> list[SkippedBaseline]:
    """Add the baselines that can run here to ``ways``; return the others with the reason."""
    limits = case.bundle.manifest.preprocessing
    height, width = load_photo(case.photo).shape[:2]
    skipped = []
    titles = _titles(case)
    for way in case.request.baselines:
        job = case.job(way, text)
        if why := why_not(job, (height, width), (limits.short_side, limits.long_side)):
            skipped.append(SkippedBaseline(way, titles[way], why))
            continue
        report(f"opening {titles[way]}")
        try:
            label = open_way(job)
            label(case.photo)
            ways[way] = label
        except (OvsdinoError, RuntimeError, MemoryError) as error:  # no weights, torch's compiler, no room
            why = (str(error).splitlines() or [type(error).__name__])[0]
            skipped.append(SkippedBaseline(way, titles[way], why))
    return skipped


def _titles(case: Case) -> dict[WayName, str]:
    return BASELINES if case.bundle.manifest.dinov3seg is None else DINOV3SEG_BASELINES


def _take_turns(case: Case, ways: Mapping[WayName, Way]) -> dict[WayName, _Turns]:
    """Time each implementation once per round, in alternating order."""
    times: dict[WayName, list[float]] = {way: [] for way in ways}
    joules: dict[WayName, list[float | None]] = {way: [] for way in ways}
    meter = EnergyMeter()
    order = list(ways)
    for repeat in range(case.request.warmup + case.request.repeats):
        for way in order:
            before, start = meter.read() if meter.readable else None, time.perf_counter()
            ways[way](case.photo)
            if repeat >= case.request.warmup:
                times[way].append(1000 * (time.perf_counter() - start))
                joules[way].append(meter.since(before))
        order = order[1:] + order[:1]
    return {way: _turns(call, times[way], joules[way]) for way, call in ways.items()}


def _turns(way: Way, times: list[float], joules: Sequence[float | None]) -> _Turns:
    known = [taken for taken in joules if taken is not None]
    energy = float(np.median(known)) if known else None
    if not isinstance(way, RuntimeWay):
        return _Turns(times=times, engine=None, stages=None, joules=energy)
    laps = way.timings[-len(times) :]
    names = [field.name for field in fields(StageMedians)]
    if not set(names) <= set(laps[0]):  # dinov3.seg has other stages
        return _Turns(times=times, engine=way.engine, stages=None, joules=energy)
    medians = StageMedians(*(round(float(np.median([lap[name] for lap in laps])), 2) for name in names))
    return _Turns(times=times, engine=way.engine, stages=medians, joules=energy)
