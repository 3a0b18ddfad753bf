"""Result files: plain data, read and written strictly."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ovsdino_benchmarks.datasets.dataset import Extent
from ovsdino_benchmarks.datasets.protocol import Protocol
from ovsdino_benchmarks.results.environment import Environment
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.atomic import write_text
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.regular_file import regular_file

SCHEMA_VERSION = 1


class ResultError(OvsdinoError):
    """A result file is missing, damaged, or of another version."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of a class in 0..1; None if it occurs neither in truth nor in prediction."""

    name: str
    pixels: int  # of the truth
    iou: float | None
    boundary_iou: float | None


@dataclass(frozen=True)
class Quality:
    """The quality of a model form on a data set."""

    data: str  # a benchmark, or the name of a folder
    extent: Extent
    photos: int
    model: str
    form: str
    engine: str
    protocol: Protocol
    threshold: float | None  # of the background, as it was used
    miou: float  # 0..1, over the classes that the truth holds
    miou_all: float  # 0..1, mmseg's rule: over the classes that the truth or the prediction holds
    boundary_miou: float
    pixel_accuracy: float
    classes: tuple[ClassScore, ...]
    confusion: str  # .npz beside this file
    data_digest: str
    model_digest: str
    seconds: float  # of this run: less where it was resumed
    command: str
    environment: Environment


@dataclass(frozen=True)
class Times:
    """Percentiles of a time over all repeats [ms]."""

    p50: float
    p90: float
    p99: float
    repeats: int


@dataclass(frozen=True)
class Stage:
    """Time and floor of one stage of the pipeline."""

    name: str
    times: Times
    floor: float | None  # [ms] what the hardware needs at least; None: not a compute stage
    floor_of: str  # what the floor counts


@dataclass(frozen=True)
class Fresh:
    """A first run in a new process, and the memory of the process [MB]."""

    load: float  # [ms] from the start of the process until the model is ready
    first: float  # [ms] from then until the first photo's labels
    idle: float  # when the model is loaded
    peak: float  # while photos are labelled

    @property
    def above(self) -> float:
        """Additional memory of labelling, above the loaded model [MB]."""
        return self.peak - self.idle


@dataclass(frozen=True)
class StageMedians:
    """Medians of the runtime's own stages [ms], as it times them while it labels a photo."""

    decode: float
    resize: float
    vision: float
    text: float  # waiting for the embeddings, which are in memory
    merge: float  # and refining, where the model refines


@dataclass(frozen=True)
class Baseline:
    """A baseline on the same photo and classes, measured in turns with the runtime."""

    name: str
    how: str
    times: Times
    fresh: Fresh | None  # None: not measured
    agreement: float  # share of pixels with the runtime's label
    engine: str | None = None  # of the runtime itself on another engine
    stages: StageMedians | None = None  # likewise
    joules: float | None = None  # median of a photo; None where the counters cannot be read


@dataclass(frozen=True)
class SkippedBaseline:
    """A baseline that could not be measured."""

    name: str
    how: str
    why: str


@dataclass(frozen=True)
class Latency:
    """The latency of a model form for one photo size and one number of classes."""

    model: str
    form: str
    engine: str
    device: str
    threads: int
    size: str  # WIDTHxHEIGHT of the photo
    classes: int
    templates: int
    windows: int
    batch: int  # windows at once
    warmup: int
    end_to_end: Times  # a photo's file to labels in memory: decode, text lookup and all
    stages: tuple[Stage, ...]
    fresh: Fresh | None  # None: not measured
    baselines: tuple[Baseline, ...]
    skipped: tuple[SkippedBaseline, ...]
    gflop: float  # of the vision graph, all windows
    gflops: float  # measured: matrix products at this precision and these threads
    copy_gb_s: float  # measured: read and write
    command: str
    environment: Environment
    medians: StageMedians | None = None  # of the runtime, in turns with the baselines
    joules: float | None = None  # median of a photo; None where the counters cannot be read

    @property
    def throughput(self) -> float:
        """Photos per second, one after another."""
        return 1000 / self.end_to_end.p50


@dataclass(frozen=True)
class Report:
    """All results of one or more runs."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["ovsdino-benchmarks"] = "ovsdino-benchmarks"
    quality: tuple[Quality, ...] = field(default=())
    latency: tuple[Latency, ...] = field(default=())


def save(report: object, path: Path) -> None:
    """Write a report atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, strict_json.dumps(report))


def load(path: Path) -> Report:
    """Read a result file, or all of those in a folder.

    Raises:
        ResultError: there is no result file, or it has another version.
    """
    if path.is_dir():
        files = [file for file in sorted(path.glob("*.json")) if file.name != "report.json"]
        if not files and (path / "report.json").is_file():
            files = [path / "report.json"]
        if not files:
            raise ResultError(
                f"{path}: no results in it; `ovsdino-bench latency` and `quality` write them with --out"
            )
        return join(map(load, files))
    try:
        raw = strict_json.loads(regular_file(path).read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise ResultError(
                f"{path}: schema_version {version}, this program reads {SCHEMA_VERSION}; measure again"
            )
        return strict_json.parse(Report, raw)
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such file; give a result file, or a folder of them") from error
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: {error}; not a result of `ovsdino-bench`, or damaged") from error


def join(reports: Iterable[Report]) -> Report:
    """Concatenate the results of several reports."""
    reports = list(reports)
    return Report(
        quality=tuple(result for report in reports for result in report.quality),
        latency=tuple(result for report in reports for result in report.latency),
    )
