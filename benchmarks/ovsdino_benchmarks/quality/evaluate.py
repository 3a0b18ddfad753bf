"""Label and count every photo of a data set, with several processes; a stopped run can be resumed.

Photos are counted in groups, each with a small file of counts. Counts are integers, so their sum does not
depend on the order of photos or processes.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ovsdino_benchmarks.datasets.dataset import Dataset, LabelledSample
from ovsdino_benchmarks.datasets.protocol import Protocol, words_of
from ovsdino_benchmarks.model_variants.models import ModelSpec
from ovsdino_benchmarks.quality.labeler import Labeller, hash_labeller, open_labeller
from ovsdino_benchmarks.results.environment import Environment, command, read_environment
from ovsdino_benchmarks.results.results import ClassScore, Quality
from ovsdino_runtime.base.arrays import read_arrays
from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.photo import decode_photo
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.files.labeled_folder import known_truth, require_same_size
from ovsdino_runtime.geometry import metrics
from ovsdino_runtime.geometry.metrics import Counts
from ovsdino_runtime.geometry.types import Photo, Truth
from ovsdino_runtime.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)
GROUP = 4  # photos counted into one file
POLL_S = 0.5
WAIT_S = 3600.0  # for the groups of other ranks


@dataclass(frozen=True)
class EvaluationRun:
    """One model form on one data set by one protocol; ``folder`` holds the finished counts."""

    spec: ModelSpec
    protocol: Protocol
    dataset: Dataset
    folder: Path
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS

    @property
    def groups(self) -> int:
        """Number of groups of photos."""
        return -(-len(self.dataset.samples) // GROUP)

    def file(self, group: int) -> Path:
        """Return the path of a group's counts."""
        return self.folder / f"{group:05d}.npz"

    def labeller(self) -> Labeller:
        """Open the model; all processes of a run share the class embeddings."""
        return open_labeller(self.spec, self.protocol, text_file=self.folder / "text.npz")

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the classes of the data set with the words of the protocol."""
        return words_of(self.protocol, self.dataset.vocabulary, self.dataset.official)

    def read(self, sample: LabelledSample) -> tuple[Photo, Truth]:
        """Read a photo and its labels. Shape: (H, W, 3), (H, W); pixels without data are ignored.

        Raises:
            DataError: they differ in size.
            OvsdinoError: a file is broken.
        """
        truth = self.dataset.truth(sample)
        decoded = decode_photo(sample.photo, options=self.photo_options)
        decoded.warn(str(sample.photo))
        height, width = decoded.photo.shape[:2]
        require_same_size(sample.photo, (width, height), (truth.shape[1], truth.shape[0]))
        return decoded.photo, known_truth(truth, decoded)

    def threshold(self) -> float | None:
        """Return the background threshold of the protocol; None for the model's own, or for no background."""
        return self.protocol.threshold if self.dataset.vocabulary.background else None


def evaluate(
    spec: ModelSpec,
    protocol: Protocol,
    dataset: Dataset,
    *,
    out: Path,
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
    workers: int = 1,
    done: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Quality, Counts] | None:
    """Label and count every photo that an earlier run has not counted.

    Under torchrun, each rank counts its share and rank 0 sums the counts.

    Args:
        spec: the model form.
        protocol: the protocol to follow.
        dataset: the photos and labels.
        photo_options: how photo files are read.
        out: folder of the results; counts of each group are stored below ``.partial/``.
        workers: number of processes; each uses ``spec.threads`` threads, or its share of the processors.
        done: called with the numbers of finished groups and of all groups.

    Returns:
        The result and its counts; None on ranks other than 0.

    Raises:
        OvsdinoError: a photo or label file is broken, or another rank failed.
    """
    started, environment = time.monotonic(), read_environment()
    identities = hash_labeller(spec, protocol), dataset.digest()
    key = hashlib.sha256(repr((identities, protocol, photo_options, GROUP, _code())).encode()).hexdigest()[
        :16
    ]
    processes = workers * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = spec.threads or max(1, available_threads() // processes)
    spec = replace(spec, threads=threads)
    folder = out.absolute() / ".partial" / f"{dataset.name}-{spec.label}-{key}"
    run = EvaluationRun(
        spec=spec, protocol=protocol, dataset=dataset, folder=folder, photo_options=photo_options
    )
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    todo = [group for group in range(rank, run.groups, ranks) if not _is_counted(run, group)]
    labeller = run.labeller()
    labeller.encode_text(run.vocabulary)
    for _ in _count_groups(run, todo, workers=workers, labeller=labeller):
        done(sum(run.file(group).is_file() for group in range(run.groups)), run.groups)
    if rank:
        return None
    _wait_for_others(run)
    counts = sum(
        (_read(run, group) for group in range(run.groups)), Counts.zero(len(dataset.vocabulary.names))
    )
    seconds = round(time.monotonic() - started, 1)
    return _result(
        run, counts, labeller, identities=identities, seconds=seconds, environment=environment
    ), counts


def count_group(run: EvaluationRun, group: int, labeller: Labeller) -> None:
    """Label and count a group of photos, and write the counts.

    Raises:
        DataError: a photo and its labels differ in size.
        OvsdinoError: a photo or a label file is broken.
    """
    vocabulary = run.vocabulary
    total = Counts.zero(len(vocabulary.names))
    for sample in run.dataset.samples[group * GROUP : (group + 1) * GROUP]:
        photo, truth = run.read(sample)
        labels = labeller.label(photo, vocabulary, run.threshold()).labels
        total += metrics.count(truth, labels, len(vocabulary.names))
    _write(run, group, total)


def _count_groups(
    run: EvaluationRun, groups: list[int], *, workers: int, labeller: Labeller
) -> Iterator[int]:
    """Count groups in this process or a pool, in any order; yield each finished group."""
    if workers == 1:
        for group in groups:
            count_group(run, group, labeller)
            yield group
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker, initargs=(run,))
    try:
        tasks = {pool.submit(_work, group): group for group in groups}
        for task in as_completed(tasks):
            task.result()
            yield tasks[task]
    finally:
        pool.shutdown(cancel_futures=True)


_worker: dict[str, tuple[EvaluationRun, Labeller]] = {}  # of this process, where it is one of a pool


def _start_worker(run: EvaluationRun) -> None:
    _worker["run"] = run, run.labeller()


def _work(group: int) -> None:
    run, labeller = _worker["run"]
    count_group(run, group, labeller)


def _wait_for_others(run: EvaluationRun) -> None:
    deadline = time.monotonic() + WAIT_S
    while missing := [group for group in range(run.groups) if not run.file(group).is_file()]:
        if time.monotonic() > deadline:
            raise OvsdinoError(
                f"{run.folder}: {len(missing)} groups of other ranks are missing after {WAIT_S:.0f} s; "
                "start again, what is done is kept"
            )
        time.sleep(POLL_S)


def _write(run: EvaluationRun, group: int, counts: Counts) -> None:
    """Write the non-zero counts atomically."""
    pairs = np.flatnonzero(counts.confusion)
    run.folder.mkdir(parents=True, exist_ok=True)
    with partial_file(run.file(group)) as partial, partial.open("wb") as file:
        np.savez(file, pairs=pairs, counts=counts.confusion.ravel()[pairs], boundary=counts.boundary)


def _read(run: EvaluationRun, group: int) -> Counts:
    """Read the counts of a group; the archive holds a checksum of each array.

    Raises:
        ValueError: the file is damaged.
    """
    counts = Counts.zero(len(run.dataset.vocabulary.names))
    kept = read_arrays(run.file(group), ("pairs", "counts", "boundary"))
    pairs, numbers, boundary = kept["pairs"], kept["counts"], kept["boundary"]
    whole = all(array.dtype.kind in "iu" and (array >= 0).all() for array in (pairs, numbers, boundary))
    if not whole or pairs.shape != numbers.shape or boundary.shape != counts.boundary.shape:
        raise ValueError("its arrays are no counts")
    if (pairs >= counts.confusion.size).any():
        raise ValueError("it counts classes that are not there")
    counts.confusion.ravel()[pairs] = numbers
    return Counts(counts.confusion, boundary)


def _is_counted(run: EvaluationRun, group: int) -> bool:
    """Tell whether the counts of a group are there; damaged ones are removed."""
    try:
        _read(run, group)
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        log.warning("%s: damaged, its photos are counted again: %s", run.file(group), error)
        run.file(group).unlink()
        return False
    return True


def code_files() -> list[Path]:
    """List the source files that decide the counts."""
    packages = [Path(str(resources.files(name))) for name in ("ovsdino_runtime", "ovsdino_benchmarks")]
    return sorted(file for package in packages for file in package.rglob("*.py"))


def _code() -> str:
    """Hash the source files, so that counts of another version are not reused."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in code_files())).hexdigest()


def _result(
    run: EvaluationRun,
    counts: Counts,
    labeller: Labeller,
    *,
    identities: tuple[str, str],
    seconds: float,
    environment: Environment,
) -> Quality:
    figures = metrics.scores(counts)
    names, pixels = run.dataset.vocabulary.names, counts.confusion.sum(axis=1).tolist()
    classes = zip(names, pixels, figures.iou, figures.boundary_iou, strict=True)
    own = labeller.background if run.dataset.vocabulary.background else None
    model = labeller.name
    asked = run.threshold()
    return Quality(
        data=run.dataset.name,
        extent=run.dataset.extent,
        photos=len(run.dataset.samples),
        model=model,
        form=run.spec.label,
        engine=labeller.engine,
        protocol=run.protocol,
        threshold=own if asked is None else asked,
        miou=figures.miou,
        miou_all=figures.miou_all,
        boundary_miou=figures.boundary_miou,
        pixel_accuracy=figures.pixel_accuracy,
        classes=tuple(ClassScore(*row) for row in classes),
        confusion=f"quality-{run.dataset.name}-{model}-{run.spec.label}.npz",
        model_digest=identities[0],
        data_digest=identities[1],
        seconds=seconds,
        command=command(),
        environment=environment,
    )
