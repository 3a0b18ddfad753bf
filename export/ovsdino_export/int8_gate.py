"""Does INT8 cost quality? mIoU of a bundle on labelled photos at FP32 and at INT8, and a refusal."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovsdino_export.parity import ParityError
from ovsdino_export.photos import SUFFIXES
from ovsdino_runtime.bundle import Manifest, Precision, write_bundle
from ovsdino_runtime.errors import OvsdinoError
from ovsdino_runtime.metrics import IGNORED, Counts, Truth, count, scores
from ovsdino_runtime.photo import load_photo
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.vocabulary import BACKGROUND, Vocabulary, load_vocabulary, parse_classes

Report = Callable[[str], None]
MOST_DROP = 1.0  # points of mIoU that INT8 may cost
NAMES = "names.txt"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
# Folders that are known by their names: packaged vocabulary, label of its first class.
KNOWN = {
    "ade20k": ("ade150", 1),
    "camvid": ("camvid11", 0),
    "coco_object": ("coco_object81", 0),
    "coco_stuff": ("coco_stuff171", 0),
    "voc": ("voc21", 0),
    "voc_samples": ("voc21", 0),
}
LAYOUT = (
    f"expected images/, labels/*.png and {NAMES} (one class a line), or folders with images/ and labels/ "
    f"named {', '.join(KNOWN)}"
)


@dataclass(frozen=True)
class LabelledSet:
    """Photos with their labels: label ``first`` is the first class, others mean nothing."""

    name: str
    pairs: tuple[tuple[Path, Path], ...]  # photo, indexed PNG
    vocabulary: Vocabulary
    first: int

    def truth(self, labels: Path) -> Truth:
        """Read a photo's labels as classes. Shape: (H, W)."""
        from PIL import Image

        try:
            with Image.open(labels) as image:
                raw = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise OvsdinoError(f"{labels}: broken label file ({error}); get it again") from error
        if raw.ndim != 2 or raw.dtype.kind not in "iub":
            raise OvsdinoError(
                f"{labels}: a picture of shape {raw.shape}, {raw.dtype}: expected an indexed or grey PNG"
            )
        classes = raw.astype(np.int32) - self.first
        return np.where((classes < 0) | (classes >= len(self.vocabulary.names)), IGNORED, classes)


def find_sets(folder: Path) -> tuple[LabelledSet, ...]:
    """Find labelled photos: those of the folder itself, or of the known data sets in it.

    Raises:
        OvsdinoError: there are none, or a label file has no photo.
        ClassesError: the names are no valid classes.
    """
    if not folder.is_dir():
        raise OvsdinoError(f"--int8-data {folder}: no such folder; {LAYOUT}")
    if (folder / NAMES).is_file():
        return (_open_set(folder, _read_names(folder / NAMES), 0),)
    known = [(folder / name, *KNOWN[name]) for name in KNOWN if (folder / name / "labels").is_dir()]
    if not known and folder.name in KNOWN:
        known = [(folder, *KNOWN[folder.name])]
    if not known:
        raise OvsdinoError(f"--int8-data {folder}: no labelled photos in it; {LAYOUT}")
    return tuple(_open_set(path, load_vocabulary(words), first) for path, words, first in known)


def gate(
    manifest: Manifest, staging: Path, sets: tuple[LabelledSet, ...], report: Report
) -> tuple[float, float]:
    """Write a bundle to a place of its own, measure its mIoU at FP32 and at INT8, and refuse a drop.

    Args:
        manifest, staging: as for `write_bundle`.
        sets: labelled photos.
        report: told the figures.

    Returns:
        Both, in 0..100, each the mean over the sets.

    Raises:
        ParityError: see `require_miou`.
    """
    report(f"mIoU on {sum(len(one.pairs) for one in sets)} labelled photos")
    means = []
    with tempfile.TemporaryDirectory(prefix="ovsdino-int8-") as folder:
        bundle = write_bundle(Path(folder) / "candidate.ovs", manifest, staging)
        for precision in PRECISIONS:
            segmenter = Segmenter.load(bundle.path, precision=precision)
            figures = {one.name: 100 * measure(segmenter, one) for one in sets}
            means.append(sum(figures.values()) / len(figures))
            listed = ", ".join(f"{name} {figure:.2f}" for name, figure in figures.items())
            report(f"mIoU at {precision}: {means[-1]:.2f} ({listed})")
    require_miou(*means)
    return means[0], means[1]


def measure(segmenter: Segmenter, labelled: LabelledSet) -> float:
    """Return the mIoU over the classes that the truth of a set holds, in 0..1."""
    classes = len(labelled.vocabulary.names)
    total = Counts.zero(classes)
    for photo, labels in labelled.pairs:
        truth, pixels = labelled.truth(labels), load_photo(photo)
        if truth.shape != pixels.shape[:2]:
            raise OvsdinoError(
                f"{labels}: {truth.shape[1]}x{truth.shape[0]} px, its photo has "
                f"{pixels.shape[1]}x{pixels.shape[0]}; they must have the same size"
            )
        total += count(truth, segmenter(pixels, labelled.vocabulary).labels, classes)
    return scores(total).miou


def require_miou(reference: float, quantized: float) -> None:
    """Refuse INT8 that costs more than a point of mIoU.

    Args:
        reference, quantized: mIoU in 0..100 of the FP32 and of the INT8 graph, on the same photos.

    Raises:
        ParityError: it does.
    """
    if reference - quantized > MOST_DROP:
        raise ParityError(
            f"INT8 has {quantized:.2f} mIoU, FP32 {reference:.2f}: a drop of {reference - quantized:.2f}, "
            f"at most {MOST_DROP} is accepted; export without --int8"
        )


def _read_names(file: Path) -> Vocabulary:
    vocabulary = parse_classes(f"@{file}")
    background = vocabulary.classes[0] == (BACKGROUND,)
    return Vocabulary(vocabulary.classes[background:], background=background, name=file.parent.name)


def _open_set(folder: Path, vocabulary: Vocabulary, first: int) -> LabelledSet:
    photos = {
        file.stem: file for file in sorted((folder / "images").glob("*")) if file.suffix.lower() in SUFFIXES
    }
    labels = sorted((folder / "labels").glob("*.png"))
    if not labels:
        raise OvsdinoError(f"--int8-data {folder}: no labels/*.png in it; {LAYOUT}")
    if missing := [file.stem for file in labels if file.stem not in photos]:
        raise OvsdinoError(
            f"--int8-data {folder}: {len(missing)} of {len(labels)} label files have no photo, the first is "
            f"{missing[0]}; put a photo of that name into images/"
        )
    return LabelledSet(folder.name, tuple((photos[file.stem], file) for file in labels), vocabulary, first)
