"""``ovsdino-bench device``: measure the pipeline on a GPU, end to end and stage by stage."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ovsdino_benchmarks.latency.case import choose_classes
from ovsdino_benchmarks.latency.stages import summarise
from ovsdino_benchmarks.reports import render
from ovsdino_benchmarks.reports.render import Section, Table
from ovsdino_benchmarks.reports.report import describe_machine
from ovsdino_benchmarks.results import results
from ovsdino_benchmarks.results.environment import Environment, command, read_environment
from ovsdino_benchmarks.results.results import Times
from ovsdino_runtime.base.options import Precision, RuntimeOptions
from ovsdino_runtime.base.out_folder import check_out
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.bundle.bundle import GOLDEN, Bundle, load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.device.open import open_device_pipeline
from ovsdino_runtime.device.pipeline import DevicePipeline
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.pipelines.pipeline import Pipeline, open_host_pipeline
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary

Report = Callable[[str], None]
TITLE = "ovsdino: pipeline on a GPU"
NEW_NAMES = 20  # that no cache knows
HEADER = (
    "size",
    "classes",
    "p50",
    "p99",
    "without graph",
    "vision",
    "end to end / vision",
    "labels",
    "taken",
)
NOTE = (
    "ms from photo to labels in the host's memory, the same photo size and classes again and again (as one "
    "CUDA graph where the engine allows it); without graph: every stage submitted by itself; vision: the "
    "vision engine in those runs, from its first start to its last end, by events on the streams. labels: "
    "share of pixels with the processor's label. taken: how often memory was taken in the steady state."
)


@dataclass(frozen=True, kw_only=True)
class DeviceRequest:
    """The bundle, engine, sizes and numbers of classes to measure."""

    model: str  # the path of a bundle with kernels for the GPU
    engine: str = "onnxruntime"
    precision: Precision = "fp32"
    sizes: tuple[tuple[int, int], ...] = ((640, 480), (1920, 1080))  # width, height [px]
    classes: tuple[int, ...] = (20, 171, 1000)
    repeats: int = 50
    warmup: int = 5


@dataclass(frozen=True)
class DeviceCase:
    """The result for one photo size and one number of classes."""

    size: str
    classes: int
    end_to_end: Times
    plain: Times  # without a graph
    stages: dict[str, float]  # [ms] medians, without a graph
    agreement: float  # share of pixels with the processor's label
    allocations: int  # in the steady state


@dataclass(frozen=True)
class Overlap:
    """Cost of new class names, which are encoded while windows are in flight [ms], medians."""

    names: int
    alone: float  # their encoding by itself
    known: float  # a photo whose names are known
    new: float  # a photo whose names are new
    hidden: float  # share of the encoding that the photo did not wait for


@dataclass(frozen=True)
class DeviceReport:
    """All results of a run."""

    model: str
    engine: str  # what really runs, with versions
    cases: tuple[DeviceCase, ...]
    overlap: Overlap
    environment: Environment
    command: str


def run_device(request: DeviceRequest, out: Path, report: Report) -> tuple[DeviceReport, list[Path]]:
    """Measure on the GPU; write report.json, report.md and report.html into a folder.

    Raises:
        EngineError: a CUDA back end or the engine is not installed, or there is no GPU, kernel or engine; see
            `ovsdino_runtime.device.open`.
    """
    check_out(out)
    bundle = load_bundle(find_bundle(request.model))
    device = open_device_pipeline(
        bundle, RuntimeOptions(device="cuda", engine=request.engine, precision=request.precision)
    )
    host = open_host_pipeline(bundle, RuntimeOptions())
    measured = measure_device(bundle, device, host=host, request=request, report=report)
    sections = list(_sections(measured))
    files = [out / f"report.{suffix}" for suffix in ("json", "md", "html")]
    results.save(measured, files[0])
    files[1].write_text(render.to_markdown(TITLE, sections), encoding="utf-8")
    files[2].write_text(render.to_html(TITLE, sections), encoding="utf-8")
    return measured, files


def describe_device_report(report: DeviceReport) -> Iterator[str]:
    """Yield each result as one line of text."""
    yield f"{report.model}, {report.engine}"
    for case in report.cases:
        yield (
            f"{case.size}, {case.classes} classes: {case.end_to_end.p50:.2f} ms, "
            f"{case.end_to_end.p50 / case.stages['vision']:.2f} x vision, labels {case.agreement:.2%}"
        )
    yield f"{report.overlap.hidden:.0%} of the encoding of {report.overlap.names} new names is hidden"


def measure_device(
    bundle: Bundle, device: DevicePipeline, *, host: Pipeline, request: DeviceRequest, report: Report
) -> DeviceReport:
    """Measure an open device pipeline, and compare its labels with those of the host pipeline."""
    encoder = TextEncoder(bundle, TextCache(cache_dir() / "text.sqlite3"), engine=device.open_text)
    templates = bundle.manifest.templates
    cases = []
    for size in request.sizes:
        photo = _photo(bundle, size)
        for count in request.classes:
            report(f"{size[0]}x{size[1]}, {count} classes")
            text = encoder.encode_classes(choose_classes(count), templates)
            cases.append(_measure_case(device, host, photo=photo, text=text, request=request))
    report(f"{NEW_NAMES} new names")
    overlap = _measure_overlap(
        device, encoder, photo=_photo(bundle, request.sizes[-1]), templates=templates, request=request
    )
    engine = device.vision.description
    name = bundle.manifest.name
    return DeviceReport(
        model=name,
        engine=engine,
        cases=tuple(cases),
        overlap=overlap,
        environment=read_environment(),
        command=command(),
    )


def _measure_case(
    device: DevicePipeline, host: Pipeline, *, photo: Photo, text: Floats, request: DeviceRequest
) -> DeviceCase:
    known: Future[Floats] = Future()
    known.set_result(text)

    def label(scores: bool) -> tuple[float, dict[str, float]]:
        start = time.perf_counter()
        timings = device.label(photo, known, threshold=None, scores=scores).timings
        return 1000 * (time.perf_counter() - start), dict(timings)

    for _ in range(max(2, request.warmup)):  # the second one captures the graph
        label(False)
    before = device.memory.allocations
    steady = [label(False)[0] for _ in range(request.repeats)]
    taken = device.memory.allocations - before
    plain = [label(bool(turn % 2 == 0)) for turn in range(request.repeats)]  # never the same twice: no graph
    stages = {stage: median(times[stage] for _, times in plain) for stage in plain[0][1]}
    labels = device.label(photo, known, threshold=None, scores=False).labels
    expected = host.label(photo, known, threshold=None, scores=False).labels
    size = f"{photo.shape[1]}x{photo.shape[0]}"
    agreement = float((labels == expected).mean())
    times = summarise(steady), summarise([whole for whole, _ in plain])
    return DeviceCase(size, len(text), *times, stages, agreement, taken)


def _measure_overlap(
    device: DevicePipeline,
    encoder: TextEncoder,
    *,
    photo: Photo,
    templates: tuple[str, ...],
    request: DeviceRequest,
) -> Overlap:
    times: dict[str, list[float]] = {"alone": [], "known": [], "new": []}
    with ThreadPoolExecutor(1, "text") as beside:
        for turn in range(2 * request.warmup + request.repeats):
            vocabularies = [_new_names(turn, part) for part in ("alone", "new")]
            start = time.perf_counter()
            known = beside.submit(encoder.encode_classes, vocabularies[0], templates)
            known.result()
            alone = time.perf_counter() - start
            start = time.perf_counter()
            device.label(photo, known, threshold=None, scores=False)
            before = time.perf_counter() - start
            start = time.perf_counter()
            text = beside.submit(encoder.encode_classes, vocabularies[1], templates)
            device.label(photo, text, threshold=None, scores=False)
            if turn >= 2 * request.warmup:
                for name, seconds in zip(times, (alone, before, time.perf_counter() - start), strict=True):
                    times[name].append(1000 * seconds)
    alone, hit, miss = (median(values) for values in times.values())
    return Overlap(names=NEW_NAMES, alone=alone, known=hit, new=miss, hidden=1 - max(0.0, miss - hit) / alone)


def _new_names(turn: int, part: str) -> Vocabulary:
    stamp = time.time_ns()  # the cache keeps names from one run to the next
    return Vocabulary(tuple((f"{part} thing {stamp} {turn} {index}",) for index in range(NEW_NAMES)))


def _photo(bundle: Bundle, size: tuple[int, int]) -> Photo:
    from PIL import Image

    with np.load(bundle.file(GOLDEN), allow_pickle=False) as golden:
        image = Image.fromarray(golden["image"])
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _sections(report: DeviceReport) -> Iterator[Section]:
    rows = tuple(
        (
            *(case.size, str(case.classes), f"{case.end_to_end.p50:.2f}", f"{case.end_to_end.p99:.2f}"),
            *(f"{case.plain.p50:.2f}", f"{case.stages['vision']:.2f}"),
            *(f"{case.end_to_end.p50 / case.stages['vision']:.2f}", f"{case.agreement:.2%}"),
            str(case.allocations),
        )
        for case in report.cases
    )
    yield Section(f"{report.model}, {report.engine}", (NOTE,), (Table(HEADER, rows),))
    cost = report.overlap
    text = (
        f"{cost.names} names that no cache knows: {cost.alone:.2f} ms by themselves; a photo takes "
        f"{cost.known:.2f} ms where they are known, {cost.new:.2f} ms where they are new: "
        f"{cost.hidden:.0%} of their encoding is hidden behind the windows."
    )
    yield Section("New names", (text,))
    yield Section("Where and how", (describe_machine(report.environment),), commands=(report.command,))
