"""Segment photos and videos on a Ray cluster, whose machines share the folders of photos and results."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ovsdino_runtime.base.errors import EngineError, OvsdinoError, PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.version import version
from ovsdino_runtime.bundle.bundle import MANIFEST
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.cluster.journal import Journal
from ovsdino_runtime.cluster.ray import LOCAL, ClusterError, connected, gpus_per_worker
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.files.output import Kind
from ovsdino_runtime.files.report import table
from ovsdino_runtime.files.result_writer import ResultFiles, name_results
from ovsdino_runtime.files.sources import read_frames
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.stream import Result, Stream
from ovsdino_runtime.text.class_lists import Background
from ovsdino_runtime.text.vocabulary import Vocabulary

AT_ONCE = 8  # number of sources handed to a worker at once


@dataclass(frozen=True, kw_only=True)
class FolderJob:
    """The job of every worker: model, classes, options and output folder."""

    model: str
    options: RuntimeOptions
    vocabulary: Vocabulary
    background: Background  # see `Segmenter`
    kinds: tuple[Kind, ...]
    out: Path
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS

    def describe(self) -> dict[str, object]:
        """Return everything that decides the results, as plain data."""
        options = self.options
        return {
            "classes": self.vocabulary.classes,
            "background_classes": self.vocabulary.background_classes,
            "background": self.vocabulary.background,
            "threshold": self.background,
            "save": self.kinds,
            "model": hashlib.sha256((find_bundle(self.model) / MANIFEST).read_bytes()).hexdigest(),
            "ovsdino": version(),
            "photos": asdict(self.photo_options),
            "precision": options.precision,
            "templates": options.templates,
            "inference": options.inference,
            "short_side": options.short_side,
            "refine": options.refine,
            "min_area": options.min_area,
            "presence": options.presence,
            "antialias": options.antialias,
        }


def shared_model_name(model: str) -> str:
    """Return a model name that other machines can resolve: an absolute path or a packaged name.

    Raises:
        BundleError: there is no such model.
    """
    path = find_bundle(model)
    return str(path.resolve()) if Path(model).exists() else model


@dataclass(frozen=True)
class Outcome:
    """The result of one source."""

    source: Source
    done: int  # number of segmented pictures
    errors: tuple[str, ...]
    text: str  # summary to print


class FolderWorker:
    """A worker process: holds the model and segments one source at a time. Ray replaces it if it dies."""

    def __init__(self, job: FolderJob) -> None:
        self._job = job
        self._segmenter: Segmenter | None = None
        self._journal = Journal(job.out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Segment a source. Return errors that the user can fix: Ray prints a traceback of exceptions."""
        shown = Source(row["kind"], row["shown"])
        try:
            outcome = self._label(Source(row["kind"], row["address"]), shown, str(row["stem"]))
            if outcome.done:
                self._journal.add(row["key"])
        except OvsdinoError as error:
            return {"refused": str(error), "outcome": ""}
        return {"refused": "", "outcome": json.dumps(asdict(outcome))}

    def _label(self, source: Source, shown: Source, stem: str) -> Outcome:
        job = self._job
        if self._segmenter is None:
            self._segmenter = Segmenter.load(job.model, job.options)
        errors: list[str] = []
        last, done = None, 0
        with ResultFiles([source], job.out, kinds=job.kinds, stems={source: stem}) as files:
            stream = Stream(
                self._segmenter,
                read_frames([source], options=job.photo_options),
                classes=job.vocabulary,
                background=job.background,
                consume=files.write,
            )
            for result in stream:
                if result.segmentation is None:
                    errors.append(str(result.error).replace(source.address, shown.address))
                    continue
                last, done = result, done + 1
        return Outcome(source=shown, done=done, errors=tuple(errors), text=_summarise(last, shown, done))


def segment_on_cluster(
    job: FolderJob, sources: Sequence[Source], *, address: str, workers: int | None
) -> Iterator[Outcome]:
    """Segment all sources that are not finished yet; yield their outcomes in the order of the sources.

    Args:
        job: the job; its paths and those of the sources must be valid on every machine.
        sources: photos and videos.
        address: see `connected`.
        workers: number of worker processes; None starts as many as fit the cluster.

    Raises:
        ClusterError: no cluster answers at the address, or its resources do not suffice.
        OvsdinoError: a source cannot be shared, the model is missing, or the results cannot be written.
    """
    if live := next((source for source in sources if source.kind == "live"), None):
        raise PhotoError(f"{live.name}: a live source is not for a cluster; leave --ray out")
    job = replace(job, model=shared_model_name(job.model), out=job.out.resolve())
    threads = job.options.threads or 1
    journal, description = Journal(job.out), job.describe()
    done = journal.done(description)
    rows = [row for row in _rows(sources) if row["key"] not in done]
    if not rows:
        return
    local = min(workers or max(1, available_threads() // threads), len(rows))
    with connected(address, local * threads) as resources:
        if workers is None:
            workers = local if address == LOCAL else _room(job.options.device, resources, threads)
        gpus = gpus_per_worker(job.options.device, workers, resources, processors=threads)
        journal.begin(description)
        job = replace(job, options=replace(job.options, threads=threads))
        for row in _run(rows, job, workers=min(workers, len(rows)), gpus=gpus):
            if row["refused"]:
                raise EngineError(f"a Ray worker: {row['refused']}")
            outcome = json.loads(row["outcome"])
            source = Source(**outcome["source"])
            yield Outcome(
                source=source, done=outcome["done"], errors=tuple(outcome["errors"]), text=outcome["text"]
            )


def _rows(sources: Sequence[Source]) -> list[dict[str, str]]:
    """Describe each source for a worker; its key changes when the file changes."""
    rows = []
    for source, stem in name_results(sources).items():
        path = Path(source.address).resolve()
        stat = path.stat() if path.exists() else None
        mark = (stat.st_size, stat.st_mtime_ns) if stat else ()
        key = json.dumps([str(path), stem, *mark])
        rows.append(
            {"kind": source.kind, "shown": source.address, "address": str(path), "stem": stem, "key": key}
        )
    return rows


def _room(device: str, resources: Mapping[str, float], threads: int) -> int:
    room = resources.get("GPU", 0) if device.startswith("cuda") else resources.get("CPU", 0) // threads
    if room < 1:
        raise ClusterError(f"the Ray cluster has no room for a worker on {device} with {threads} processors")
    return int(room)


def _run(rows: list[dict[str, str]], job: FolderJob, *, workers: int, gpus: float) -> Any:  # noqa: ANN401 - Ray's rows
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    worker: Any = FolderWorker  # Ray's hints know functions only
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // AT_ONCE)).map(
        worker,
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=job.options.threads,
        num_gpus=gpus,
    )
    return data.iter_rows()


def _summarise(last: Result | None, shown: Source, done: int) -> str:
    if last is None:
        return ""
    if shown.kind == "photo":
        return table(replace(last, frame=replace(last.frame, source=shown)))
    return f"{shown.name}: {done} pictures\n  -> {', '.join(map(str, last.files))}"
