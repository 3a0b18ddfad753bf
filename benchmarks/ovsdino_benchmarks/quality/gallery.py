"""Pictures for the report: photo, prediction, ground truth, and their differences."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ovsdino_benchmarks.quality.evaluate import EvaluationRun
from ovsdino_benchmarks.quality.labeler import open_labeller
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.geometry.metrics import IGNORED
from ovsdino_runtime.geometry.types import Photo, Truth

VIEWS = ("photo", "prediction", "truth", "errors")
LONGEST = 480  # [px]
UNLABELLED = "(no label)"
WRONG, UNKNOWN = (220, 38, 38), (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """The four views of a photo, as files."""

    title: str
    files: tuple[Path, ...]  # in the order of VIEWS


def draw_gallery(run: EvaluationRun, count: int, folder: Path) -> None:
    """Draw evenly spaced photos of a data set as JPEGs in a folder."""
    from PIL import Image

    labeller, dataset = open_labeller(run.spec, run.protocol), run.dataset
    folder.mkdir(parents=True, exist_ok=True)
    picked = np.linspace(0, len(dataset.samples) - 1, min(count, len(dataset.samples))).astype(int)
    for index in picked.tolist():
        sample = dataset.samples[index]
        photo, truth = run.read(sample)
        result = labeller.label(photo, run.vocabulary, run.threshold())
        for view, picture in zip(VIEWS, _views(result, truth), strict=True):
            image = Image.fromarray(picture)
            image.thumbnail((LONGEST, LONGEST))
            title = sample.name.replace("/", "_")
            stem = f"{dataset.name}-{result.model}-{run.spec.label}-{index:05d}-{title}"
            image.save(folder / f"{stem}.{view}.jpg", quality=85)


def find_gallery(folder: Path) -> Iterator[Picture]:
    """List the pictures of a folder of results."""
    for photo in sorted(folder.glob(f"*.{VIEWS[0]}.jpg")):
        stem = photo.name.removesuffix(f".{VIEWS[0]}.jpg")
        files = tuple(folder / f"{stem}.{view}.jpg" for view in VIEWS)
        if all(file.is_file() for file in files):
            yield Picture(stem, files)


def _views(result: Segmentation, truth: Truth) -> Iterator[Photo]:
    """Yield photo, prediction, truth and errors. Shape: (H, W, 3) each; larger with a legend."""
    photo, ignored = result.photo, truth == IGNORED
    true_labels = np.where(ignored, len(result.classes), truth).astype(np.uint16)
    yield photo
    yield np.asarray(result.overlay())
    yield np.asarray(replace(result, labels=true_labels, classes=(*result.classes, UNLABELLED)).overlay())
    errors = np.repeat((photo.mean(axis=2) * 0.6 + 60).astype(np.uint8)[..., None], 3, axis=2)
    errors[(truth != result.labels) & ~ignored] = WRONG
    errors[ignored] = UNKNOWN
    yield errors
