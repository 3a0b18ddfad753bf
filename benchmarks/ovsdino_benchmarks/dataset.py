"""Labelled photos on disk: found and checked before anything is computed."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ovsdino_benchmarks.benchmark_list import Benchmark, Layout, benchmarks
from ovsdino_benchmarks.label_values import LabelError, Values, plain, reduced, to_classes
from ovsdino_runtime.errors import OvsdinoError, PhotoError
from ovsdino_runtime.metrics import Truth
from ovsdino_runtime.rle import decode_rle
from ovsdino_runtime.vocabulary import (
    BACKGROUND,
    Vocabulary,
    load_vocabulary,
    parse_classes,
    vocabulary_names,
)

TURNED = (5, 6, 7, 8)  # values of EXIF's orientation that swap the sides
ORIENTATION = 0x0112
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


Extent = Literal["full set", "subset", "own folder"]  # how much of a benchmark it is


class DataError(OvsdinoError):
    """A data set that is missing, incomplete, or not laid out as expected."""


@dataclass(frozen=True)
class Masks:
    """Labels as run-length encoded masks: later ones lie above earlier ones."""

    file: Path
    height: int
    width: int
    parts: tuple[tuple[int, str], ...]  # raw value, runs


@dataclass(frozen=True)
class Sample:
    """A photo and where its labels are."""

    name: str
    photo: Path
    labels: Path | Masks


@dataclass(frozen=True)
class Dataset:
    """What is evaluated: photos with labels, and what the labels mean."""

    name: str
    samples: tuple[Sample, ...]
    vocabulary: Vocabulary
    values: Values
    extent: Extent

    def truth(self, sample: Sample) -> Truth:
        """Read the labels of a photo. Shape: (H, W).

        Raises:
            LabelError: the file is broken, or a label means nothing.
        """
        if isinstance(sample.labels, Masks):
            raw = np.zeros((sample.labels.height, sample.labels.width), np.int32)
            for value, runs in sample.labels.parts:
                raw[decode_rle(runs, *raw.shape)] = value
            return to_classes(raw, self.values, f"{sample.labels.file}, {sample.name}")
        return to_classes(_read_labels(sample.labels), self.values, str(sample.labels))

    def digest(self) -> str:
        """Hash the photos, their labels, the classes and what the labels mean."""
        digest = hashlib.sha256(repr((self.vocabulary.classes, sorted(self.values.items()))).encode())
        for sample in self.samples:
            labels = sample.labels
            digest.update(sample.name.encode() + sample.photo.read_bytes())
            digest.update(repr(labels.parts).encode() if isinstance(labels, Masks) else labels.read_bytes())
        return digest.hexdigest()


def open_benchmark(name: str, folder: Path) -> Dataset:
    """Find a benchmark's files below a folder, as its archives unpack or as mmseg converts them.

    Raises:
        DataError: there is no such benchmark, or what is missing, and where to get it.
    """
    if name not in benchmarks():
        raise DataError(f"unknown benchmark {name!r}: expected one of {', '.join(benchmarks())}")
    benchmark = benchmarks()[name]
    _require_folder(folder)
    for layout in benchmark.layouts:
        for root in layout.roots:
            if samples := _find(folder / root, layout):
                _check_samples(samples, where=f"{name}: get it from {benchmark.source}")
                vocabulary = load_vocabulary(benchmark.vocabulary)
                extent: Extent = "full set" if len(samples) >= benchmark.photos else "subset"
                return Dataset(name, samples, vocabulary, layout.values, extent)
    raise DataError(_what_is_missing(name, benchmark, folder))


def open_folder(
    folder: Path, names: str | None = None, *, ignore: int = 255, reduce_zero_label: bool = False
) -> Dataset:
    """Find ``images/``, ``labels/*.png`` and ``names.txt`` in a folder.

    Args:
        folder: the data set.
        names: a packaged vocabulary, or a file with one class a line; None is ``names.txt`` in the folder.
        ignore: label that means nothing.
        reduce_zero_label: label 0 means nothing either, and the classes begin at 1.

    Raises:
        DataError: what is missing.
        ClassesError: the names are no valid classes.
    """
    _require_folder(folder)
    vocabulary = _read_names(folder, names)
    meaning = (reduced if reduce_zero_label else plain)(len(vocabulary.names), ignore=ignore)
    samples = _find(folder, Layout(("",), "images/{}", "labels/{}.png", meaning))
    if not samples:
        raise DataError(
            f"{folder}: no labels/*.png in it; expected images/, labels/ with an indexed PNG for each photo"
        )
    _check_samples(samples, where=f"{folder}: give each label file a photo of the same name in images/")
    return Dataset(folder.resolve().name, samples, vocabulary, meaning, "own folder")


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give the data set's folder"
        )


def _read_names(folder: Path, names: str | None) -> Vocabulary:
    if names in vocabulary_names():
        return load_vocabulary(str(names))
    file = folder / "names.txt" if names is None else Path(names)
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; write one class a line, in the order of the labels, or give "
            f"--names FILE, --benchmark, or as --names one of {', '.join(vocabulary_names())}"
        )
    vocabulary = parse_classes(f"@{file}")
    if vocabulary.classes[0] == (BACKGROUND,):
        return Vocabulary(vocabulary.classes[1:], background=True, name=file.stem)
    return Vocabulary(vocabulary.classes, name=file.stem)


def _find(base: Path, layout: Layout) -> tuple[Sample, ...]:
    """List a layout's samples; none where its label files are not."""
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
    by_stem = _photos_by_stem(base / "images") if layout.photos == "images/{}" else {}
    return tuple(
        Sample(
            stem, by_stem.get(stem, base / layout.photos.replace("{}", stem)), base / f"{head}{stem}{tail}"
        )
        for stem in stems
    )


def _photos_by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in PHOTO_SUFFIXES}


def _read_masks(base: Path, file: Path, photos: str) -> tuple[Sample, ...]:
    """Read Pascal Context's masks in the form of the detail API; the validation photos only."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        parts = defaultdict[int, list[tuple[int, str]]](list)
        for mask in raw["annos_segmentation"]:
            parts[mask["image_id"]].append((int(mask["category_id"]), mask["segmentation"]["counts"]))
        return tuple(
            Sample(
                (stem := Path(image["file_name"]).stem),
                base / photos.replace("{}", stem),
                Masks(file, image["height"], image["width"], tuple(parts[image["image_id"]])),
            )
            for image in raw["images"]
            if image["phase"] == "val"
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: not Pascal Context's trainval_merged.json ({error!r}); download it again"
        ) from error


def _check_samples(samples: tuple[Sample, ...], *, where: str) -> None:
    """Refuse a set of which files are missing or do not fit each other."""
    for kind, files in (
        ("photos", [sample.photo for sample in samples]),
        ("label files", [sample.labels for sample in samples if isinstance(sample.labels, Path)]),
    ):
        if missing := [str(file) for file in files if not file.is_file()]:
            raise DataError(
                f"{len(missing)} of {len(files)} {kind} are missing, the first is {missing[0]}; {where}"
            )
    for sample, photo, labels in _sizes(samples):
        if photo != labels:
            raise DataError(
                f"{sample.photo} is {photo[0]}x{photo[1]} px, its labels are {labels[0]}x{labels[1]} px; "
                "they must have the same size"
            )


def _sizes(samples: tuple[Sample, ...]) -> Iterator[tuple[Sample, tuple[int, int], tuple[int, int]]]:
    """Read widths and heights from the files' headers."""
    from PIL import Image

    for sample in samples:
        if isinstance(sample.labels, Path) and sample.labels.suffix == ".mat":
            continue  # compared when it is read
        try:
            with Image.open(sample.photo) as photo:
                width, height = photo.size
                turned = photo.getexif().get(ORIENTATION) in TURNED
            if isinstance(sample.labels, Masks):
                size = sample.labels.width, sample.labels.height
            else:
                with Image.open(sample.labels) as labels:
                    size = labels.size
        except (OSError, SyntaxError, ValueError) as error:
            raise PhotoError(f"{sample.photo} or its labels: not a readable picture ({error})") from error
        yield sample, (height, width) if turned else (width, height), size


def _read_labels(file: Path) -> Truth:
    if file.suffix == ".mat":
        return _read_matlab(file)
    from PIL import Image

    try:
        with Image.open(file) as image:
            raw = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelError(f"{file}: broken label file ({error}); get it again") from error
    if raw.ndim != 2 or raw.dtype.kind not in "iub" or raw.min() < 0:
        raise LabelError(
            f"{file}: a picture of shape {raw.shape}, {raw.dtype}: expected an indexed or grey PNG"
        )
    return raw.astype(np.int32)


def _read_matlab(file: Path) -> Truth:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"{file}: reading .mat files needs scipy: pip install 'ovsdino[bench]'") from error
    labels: Truth = loadmat(file)["LabelMap"].astype(np.int32)
    return labels


def _what_is_missing(name: str, benchmark: Benchmark, folder: Path) -> str:
    first = benchmark.layouts[0]
    root = first.roots[0] or "."
    wanted = [f"{root}/{part.replace('{}', '*')}" for part in (first.photos, first.labels, *first.names[:1])]
    ways = "" if len(benchmark.layouts) == 1 else f" (or one of {len(benchmark.layouts) - 1} other layouts)"
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    return (
        f"{folder}: no {name} in it: expected {', '.join(wanted)}{ways}, found {found}; "
        f"get it from {benchmark.source}"
    )
