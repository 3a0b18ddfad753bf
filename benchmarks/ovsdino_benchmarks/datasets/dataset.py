"""Open labelled photos, and check them before anything is computed."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ovsdino_benchmarks.datasets.benchmark_list import Benchmark, FileLayout, benchmarks
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.photo_files import photo_size
from ovsdino_runtime.files.labeled_folder import (
    NAMES,
    DataError,
    Values,
    open_labelled,
    photos_by_stem,
    plain,
    read_labels,
    read_names,
    reduced,
    require_folder,
    require_same_size,
    to_classes,
)
from ovsdino_runtime.geometry.rle import decode_rle
from ovsdino_runtime.geometry.types import Truth
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary, vocabulary_names

Extent = Literal["full set", "subset", "own folder"]  # how much of a benchmark it is


@dataclass(frozen=True)
class Masks:
    """Labels as run-length encoded masks; later masks cover earlier ones."""

    file: Path
    height: int
    width: int
    parts: tuple[tuple[int, str], ...]  # raw value, runs


@dataclass(frozen=True)
class LabelledSample:
    """A photo and its labels."""

    name: str
    photo: Path
    labels: Path | Masks


@dataclass(frozen=True)
class Dataset:
    """A data set: photos with labels, and the meaning of the label values."""

    name: str
    samples: tuple[LabelledSample, ...]
    vocabulary: Vocabulary
    values: Values
    extent: Extent
    official: str | None = None  # the official list of its names; None: an own folder has none

    def truth(self, sample: LabelledSample) -> Truth:
        """Read the labels of a photo. Shape: (H, W).

        Raises:
            LabelError: the file is broken, or a label value has no meaning.
        """
        if isinstance(sample.labels, Masks):
            raw = np.zeros((sample.labels.height, sample.labels.width), np.int32)
            for value, runs in sample.labels.parts:
                raw[decode_rle(runs, *raw.shape)] = value
            return to_classes(raw, self.values, f"{sample.labels.file}, {sample.name}")
        read = _read_matlab if sample.labels.suffix == ".mat" else read_labels
        return to_classes(read(sample.labels), self.values, str(sample.labels))

    def digest(self) -> str:
        """Hash the photos, their labels, the classes and the meaning of label values."""
        digest = hashlib.sha256(repr((self.vocabulary.classes, sorted(self.values.items()))).encode())
        for sample in self.samples:
            labels = sample.labels
            digest.update(sample.name.encode() + sample.photo.read_bytes())
            digest.update(repr(labels.parts).encode() if isinstance(labels, Masks) else labels.read_bytes())
        return digest.hexdigest()


def open_benchmark(name: str, folder: Path) -> Dataset:
    """Open a benchmark below a folder, in the layout of its archives or of mmseg's converters.

    Raises:
        DataError: there is no such benchmark, or files are missing; the message says where to get them.
    """
    if name not in benchmarks():
        raise DataError(f"unknown benchmark {name!r}: expected one of {', '.join(benchmarks())}")
    benchmark = benchmarks()[name]
    require_folder(folder)
    for layout in benchmark.layouts:
        for root in layout.roots:
            if samples := _find(folder / root, layout):
                _check_samples(samples, where=f"{name}: get it from {benchmark.source}")
                vocabulary = load_vocabulary(benchmark.vocabulary)
                extent: Extent = "full set" if len(samples) >= benchmark.photos else "subset"
                return Dataset(
                    name=name,
                    samples=samples,
                    vocabulary=vocabulary,
                    values=layout.values,
                    extent=extent,
                    official=benchmark.official,
                )
    raise DataError(_what_is_missing(name, benchmark, folder))


def open_folder(
    folder: Path, classes: str | None = None, *, ignore: int = 255, reduce_zero_label: bool = False
) -> Dataset:
    """Open a folder with ``images/``, ``labels/*.png`` and ``names.txt``.

    Args:
        folder: the folder of the data set.
        classes: a packaged vocabulary, ``"@FILE"`` or the names themselves, in label order; None reads
            ``names.txt`` in the folder.
        ignore: label value that is ignored.
        reduce_zero_label: whether label 0 is ignored as well, and classes begin at 1.

    Raises:
        DataError: a file or folder is missing.
        ClassesError: the names are not valid classes.
    """
    require_folder(folder)
    vocabulary = _choose_classes(folder, classes)
    meaning = (reduced if reduce_zero_label else plain)(len(vocabulary.names), ignore=ignore)
    labeled = open_labelled(folder, vocabulary, meaning)
    samples = tuple(LabelledSample(labels.stem, photo, labels) for photo, labels in labeled.pairs)
    return Dataset(
        name=labeled.name, samples=samples, vocabulary=vocabulary, values=meaning, extent="own folder"
    )


def _choose_classes(folder: Path, classes: str | None) -> Vocabulary:
    if classes is not None:
        return read_classes(classes)
    try:
        return read_names(folder / NAMES)
    except DataError as error:
        packaged = ", ".join(vocabulary_names())
        raise DataError(
            f"{error}, or give --classes @FILE, --benchmark, or as --vocabulary one of {packaged}"
        ) from error


def _find(base: Path, layout: FileLayout) -> tuple[LabelledSample, ...]:
    """List the samples of a layout; empty if its label files do not exist."""
    if layout.labels.endswith(".json"):
        file = base / layout.labels
        return _read_masks(base, file, layout.photos) if file.is_file() else ()
    head, _, tail = layout.labels.partition("{}")
    lists = [base / name for name in layout.names if (base / name).is_file()]
    if not (base / head).is_dir() or (layout.names and not lists):
        return ()
    if lists:
        stems = lists[0].read_text(encoding="utf-8").split()
    else:
        files = (path.relative_to(base).as_posix() for path in (base / head).rglob(f"*{tail}"))
        stems = sorted(path[len(head) : len(path) - len(tail)] for path in files)
        if layout.labels == "annotations/val2017/{}.png":  # converted files lie beside the official ones
            stems = [stem for stem in stems if not stem.endswith("TrainIds")]
    by_stem = photos_by_stem(base / "images") if layout.photos == "images/{}" else {}
    return tuple(
        LabelledSample(
            stem, by_stem.get(stem, base / layout.photos.replace("{}", stem)), base / f"{head}{stem}{tail}"
        )
        for stem in stems
    )


def _read_masks(base: Path, file: Path, photos: str) -> tuple[LabelledSample, ...]:
    """Read the masks of Pascal Context's validation photos, in the format of the detail API."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        parts = defaultdict[int, list[tuple[int, str]]](list)
        for mask in raw["annos_segmentation"]:
            parts[mask["image_id"]].append((int(mask["category_id"]), mask["segmentation"]["counts"]))
        return tuple(
            LabelledSample(
                (stem := Path(image["file_name"]).stem),
                base / photos.replace("{}", stem),
                Masks(
                    file=file,
                    height=image["height"],
                    width=image["width"],
                    parts=tuple(parts[image["image_id"]]),
                ),
            )
            for image in raw["images"]
            if image["phase"] == "val"
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{file}: not Pascal Context's trainval_merged.json ({error!r}); download it again"
        ) from error


def _check_samples(samples: tuple[LabelledSample, ...], *, where: str) -> None:
    """Reject a data set with missing files, or with photos and labels of different sizes."""
    for kind, files in (
        ("photos", [sample.photo for sample in samples]),
        ("label files", [sample.labels for sample in samples if isinstance(sample.labels, Path)]),
    ):
        if missing := [str(file) for file in files if not file.is_file()]:
            raise DataError(
                f"{len(missing)} of {len(files)} {kind} are missing, the first is {missing[0]}; {where}"
            )
    for sample, photo, labels in _sizes(samples):
        require_same_size(sample.photo, photo, labels)


def _sizes(
    samples: tuple[LabelledSample, ...],
) -> Iterator[tuple[LabelledSample, tuple[int, int], tuple[int, int]]]:
    """Read widths and heights from the files' headers."""
    for sample in samples:
        if isinstance(sample.labels, Path) and sample.labels.suffix == ".mat":
            continue  # compared when it is read
        if isinstance(sample.labels, Masks):
            size = sample.labels.width, sample.labels.height
        else:
            size = photo_size(sample.labels)
        yield sample, photo_size(sample.photo), size


def _read_matlab(file: Path) -> Truth:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"{file}: reading .mat files needs scipy: {install_command('bench')}") from error
    labels: Truth = loadmat(file)["LabelMap"].astype(np.int32)
    return labels


def _what_is_missing(name: str, benchmark: Benchmark, folder: Path) -> str:
    first = benchmark.layouts[0]
    root = first.roots[0] or "."
    wanted = [f"{root}/{part.replace('{}', '*')}" for part in (first.photos, first.labels, *first.names[:1])]
    ways = "" if len(benchmark.layouts) == 1 else f" (or one of {len(benchmark.layouts) - 1} other layouts)"
    content = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    return (
        f"{folder}: no {name} in it: expected {', '.join(wanted)}{ways}, found {content}; "
        f"get it from {benchmark.source}"
    )
