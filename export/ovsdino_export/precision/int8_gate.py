"""Reject INT8 that costs quality: compare the mIoU of a bundle at FP32 and at INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ovsdino_export import parity
from ovsdino_export.parity import ParityError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.bundle.bundle import Manifest, write_bundle
from ovsdino_runtime.files.labeled_folder import (
    IMAGES,
    LABELS,
    LAYOUT,
    NAMES,
    DataError,
    LabelledPhotos,
    open_labelled,
    require_folder,
)
from ovsdino_runtime.geometry.metrics import Counts, count, scores
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import labelled_background

Report = Callable[[str], None]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def find_sets(folder: Path, *, options: PhotoOptions = DEFAULT_PHOTO_OPTIONS) -> tuple[LabelledPhotos, ...]:
    """Find labelled photos: those of the folder itself, or of each subfolder with labels.

    Args:
        folder: where to look.
        options: what the photos' files do not say about their pixels.

    Raises:
        OvsdinoError: there are no labelled photos, or they are invalid; see `open_labelled`.
    """
    require_folder(folder)
    if any((folder / part).exists() for part in (IMAGES, LABELS, NAMES)):
        return (open_labelled(folder, photo_options=options),)
    if sets := sorted(labels.parent for labels in folder.glob(f"*/{LABELS}")):
        return tuple(open_labelled(one, photo_options=options) for one in sets)
    raise DataError(f"--int8-data {folder}: no labelled photos in it; {LAYOUT}, or folders of these")


def gate(
    manifest: Manifest, staging: Path, *, sets: tuple[LabelledPhotos, ...], report: Report
) -> tuple[float, float]:
    """Write a temporary bundle, measure its mIoU with FP32 and INT8, and reject a large drop.

    Args:
        manifest, staging: as for `write_bundle`.
        sets: labelled photos.
        report: called with the figures.

    Returns:
        Both mIoU, in 0..100, averaged over the sets.

    Raises:
        ParityError: see `require_miou`.
    """
    report(f"mIoU on {sum(len(photos) for photos in sets)} labelled photos")
    means = []
    with scratch_folder("int8") as folder:
        bundle = write_bundle(folder / "candidate.ovs", manifest, staging)
        for precision in PRECISIONS:
            segmenter = Segmenter.load(bundle.path, precision=precision)
            figures = {photos.name: 100 * measure(segmenter, photos) for photos in sets}
            means.append(sum(figures.values()) / len(figures))
            listed = ", ".join(f"{name} {figure:.2f}" for name, figure in figures.items())
            report(f"mIoU at {precision}: {means[-1]:.2f} ({listed})")
    require_miou(*means)
    return means[0], means[1]


def measure(segmenter: Segmenter, labelled: LabelledPhotos) -> float:
    """Return the mIoU over the classes that occur in the truth of a set, in 0..1."""
    classes = len(labelled.vocabulary.names)
    total = Counts.zero(classes)
    background = labelled_background(labelled.vocabulary)
    for photo, truth in map(labelled.read, range(len(labelled))):
        labels = segmenter(photo, labelled.vocabulary, background=background).labels
        total += count(truth, labels, classes)
    return scores(total).miou


def require_miou(reference: float, quantized: float) -> None:
    """Reject INT8 that costs more than a point of mIoU.

    Args:
        reference, quantized: mIoU in 0..100 of the FP32 and of the INT8 graph, on the same photos.

    Raises:
        ParityError: the drop is larger than allowed.
    """
    if reference - quantized > parity.MAX_INT8_DROP:
        raise ParityError(
            f"INT8 has {quantized:.2f} mIoU, FP32 {reference:.2f}: a drop of {reference - quantized:.2f}, "
            f"at most {parity.MAX_INT8_DROP} is accepted; export without --int8"
        )
