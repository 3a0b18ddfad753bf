"""Stage 15 of nano: measure the exported bundle's mIoU on DATA/dev, next to the teachers' mIoU.

The whole benchmarks are `ovsdino-bench quality`'s; here are also the classes that the teachers know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from ovsdino.network.checkpoint import load_model
from ovsdino.training.data.synonyms import read_synonyms
from ovsdino.training.systems.validation import photo_cosines
from ovsdino.training.targets.word_bank import load_prompter
from ovsdino_benchmarks.datasets.label_values import stuff_pixels
from ovsdino_runtime.base.options import Inference
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.files.labeled_folder import Values, to_classes
from ovsdino_runtime.geometry.metrics import IGNORED, Counts, count, scores
from ovsdino_runtime.geometry.types import Photo, Truth
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import (
    labelled_background,
    read_background_classes,
    with_background_classes,
)
from ovsdino_runtime.text.vocabulary import Vocabulary, load_templates, load_vocabulary

NEARLY_NEVER = 0.01  # IoU
Labels = NDArray[np.int32]  # (H, W)
Label = Callable[[Photo, Vocabulary, float | None], Labels]  # with the threshold of a background
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Bench:
    """A small labelled set: its folder, its words, and its teacher's mIoU (`evaluate_teachers.py`)."""

    folder: str
    vocabulary: str
    words: int | None = None  # only the first so many
    first: int = 0  # label of the first word; smaller ones are ignored
    values: Values | None = None  # value in a label file -> word, in place of `first`
    without_background: bool = False  # leave the background of the vocabulary out
    teacher: float | None = None


BENCHES = {
    "ADE20K-31": Bench("ade20k", "ade150", words=31, first=1, teacher=51.7),
    "ADE20K-150": Bench("ade20k", "ade150", first=1),
    "CamVid-11": Bench("camvid", "camvid11", teacher=52.3),
    "VOC20": Bench("voc", "voc20", first=1),
    "VOC21": Bench("voc", "voc21", teacher=57.9),
    "VOC21, samples": Bench("voc_samples", "voc21", teacher=63.5),
    "COCO-Object": Bench("coco_object", "coco_object81"),
    "COCO-80": Bench("coco_object", "coco_object81", first=1, without_background=True),
    "COCO-Stuff-171": Bench("coco_stuff", "coco_stuff171", values=stuff_pixels()),
}


def words_of(bench: Bench, *, synonyms: bool) -> Vocabulary:
    """Return the words of a set, optionally with their packaged synonyms."""
    whole = load_vocabulary(bench.vocabulary)
    classes = whole.classes[: bench.words]
    background = whole.background and not bench.without_background
    return Vocabulary(classes if synonyms else tuple(c[:1] for c in classes), background=background)


def read_pairs(bench: Bench, data: Path, words: int) -> Iterator[tuple[Photo, Truth]]:
    """Read a set's photos and true labels (indices of its words). Shape: (H, W, 3), (H, W)."""
    folder = data / "dev" / bench.folder
    for path in track(sorted((folder / "labels").glob("*.png")), description=bench.folder):
        truth = np.asarray(Image.open(path)).astype(np.int32)
        if bench.values is not None:
            truth = to_classes(truth, bench.values, str(path))
        else:
            truth -= bench.first
            truth[(truth < 0) | (truth >= words)] = IGNORED
        yield load_photo(next((folder / "images").glob(f"{path.stem}.*"))), truth


def label_in_torch(checkpoint: Path) -> Label:
    """Return a function that segments photos with a checkpoint of nano in the paper's windows."""
    model = load_model("nano", checkpoint)
    prompter = load_prompter(model.config)
    scale, bias = float(model.head.scale.detach()), float(model.head.bias.detach())

    @cache
    def embed(words: tuple[tuple[str, ...], ...]) -> Tensor:
        means = torch.stack([prompter.encode(names).mean(0) for names in words])  # (N, D)
        return torch.nn.functional.normalize(means, dim=-1)

    def label(photo: Photo, words: Vocabulary, cut: float | None) -> Labels:
        labels, cosines = photo_cosines(model, photo, embed(words.classes))  # (H, W) each
        if not words.background:
            return labels
        confidence = 1 / (1 + np.exp(-(scale * cosines + bias)))
        return np.where(confidence < (model.config.background if cut is None else cut), 0, labels + 1)

    return label


def measure(
    label: Label, bench: Bench, *, data: Path, words: Vocabulary, cut: float | None
) -> tuple[Counts, float]:
    """Segment every photo of a set and compare the labels with the truth.

    Returns:
        The counts, and the mean share of a photo's area that goes to words which its truth does not hold.
    """
    total, absent = Counts.zero(len(words.names)), []
    for photo, truth in read_pairs(bench, data, len(words.names)):
        labels = label(photo, words, cut)
        total += count(truth, labels, len(words.names))
        absent.append(1 - np.isin(labels, truth[truth != IGNORED]).mean())
    return total, float(np.mean(absent))


def nearly_never_found(words: Vocabulary, counts: Counts) -> list[str]:
    """Return the words that occur in the truth and whose IoU is below 1 %."""
    occurs = counts.confusion.sum(axis=1) > 0
    rows = zip(words.names, scores(counts).iou, occurs, strict=True)
    return [name for name, iou, here in rows if here and (iou or 0) < NEARLY_NEVER]


def each_word(words: Vocabulary, counts: Counts) -> str:
    """List the words that occur in the truth with their IoU [%], best first."""
    occurs = counts.confusion.sum(axis=1) > 0
    ious = zip(words.names, scores(counts).iou, occurs, strict=True)
    ranked = sorted(((100 * (iou or 0), name) for name, iou, here in ious if here), reverse=True)
    return ", ".join(f"{name} {iou:.0f}" for iou, name in ranked)


def taught_words(masks: Path) -> set[str]:
    """Return all names of regions in training: the masks' nouns and their synonyms."""
    nouns = json.loads((masks / "vocabulary.json").read_text(encoding="utf-8"))
    synonyms = read_synonyms(masks)
    return {name for noun in nouns for name in (noun, *synonyms.names_of(noun))}


def split(words: Vocabulary, counts: Counts, taught: set[str]) -> str:
    """Format the mIoU [%] of the classes whose word was trained, and of the others, if they occur."""
    ious: dict[bool, list[float]] = {True: [], False: []}
    occurs = counts.confusion.sum(axis=1) > 0
    for name, iou, here in zip(words.names, scores(counts).iou, occurs, strict=True):
        if here and iou is not None:
            ious[name in taught].append(100 * iou)
    parts = [
        f"{len(values)} classes {np.mean(values):.1f}" if values else "no class" for values in ious.values()
    ]
    return f"{'':16} words of the training: {parts[0]}; others: {parts[1]}"


@click.command()
@click.option("--data", type=FOLDER, required=True)
@click.option("--model", default="nano", show_default=True, help="A packaged model, or the path of a bundle.")
@click.option("--checkpoint", type=FILE, help="Nano's weights in torch, in place of a bundle.")
@click.option("--bench", "names", multiple=True, type=click.Choice(list(BENCHES)))
@click.option("--background", type=float, help="Threshold.  [default: the model's]")
@click.option("--templates", default="name", show_default=True)
@click.option("--inference", type=click.Choice(get_args(Inference)), default="slide", show_default=True)
@click.option("--refine/--no-refine", default=None, help="Refine the labels.  [default: the model's]")
@click.option("--short-side", type=int, help="[px] of the resized photos.  [default: the model's]")
@click.option("--presence", type=float, help="Without a background, leave out words that nowhere reach it.")
@click.option(
    "--background-classes", help="What is background as well, where there is one; such as surroundings."
)
@click.option("--lost-words", is_flag=True, help="Name the words below 1 IoU.")
@click.option("--each-word", "list_words", is_flag=True, help="List each word with its IoU.")
@click.option("--synonyms", is_flag=True, help="With the vocabularies' synonyms.")
@click.option("--masks", type=FOLDER, help="Its training's: tell their words from others.")
def main(  # noqa: PLR0913 - one argument for each option
    *,
    data: Path,
    model: str,
    checkpoint: Path | None,
    names: tuple[str, ...],
    background: float | None,
    templates: str,
    inference: Inference,
    refine: bool | None,
    short_side: int | None,
    presence: float | None,
    background_classes: str | None,
    lost_words: bool,
    list_words: bool,
    synonyms: bool,
    masks: Path | None,
) -> None:
    """Print a model's mIoU and Boundary IoU [%] on each set of DATA/dev."""
    if checkpoint:
        label = label_in_torch(checkpoint)
    else:
        segmenter = Segmenter.load(
            model,
            templates=load_templates(templates),
            antialias=False,
            inference=inference,
            refine=refine,
            short_side=short_side,
            presence=presence,
        )

        def label(photo: Photo, words: Vocabulary, cut: float | None) -> Labels:
            return segmenter(photo, words, background=labelled_background(words, cut)).labels

    for name in names or tuple(BENCHES):
        bench = BENCHES[name]
        words = words_of(bench, synonyms=synonyms)
        if background_classes and words.background:
            words = with_background_classes(words, read_background_classes(background_classes))
        counts, absent = measure(
            label, bench, data=data, words=words, cut=background if words.background else None
        )
        result, lost = scores(counts), nearly_never_found(words, counts)
        figures = f"{100 * result.miou:5.1f}   boundary {100 * result.boundary_miou:5.1f}"
        occurring = int((counts.confusion.sum(axis=1) > 0).sum())
        click.echo(
            f"{name:16} {figures}   teacher {bench.teacher or '-'}   absent words {100 * absent:.0f} %   "
            f"below 1 IoU: {len(lost)} of {occurring} words"
        )
        if lost_words and lost:
            click.echo(f"{'':16} {', '.join(lost)}")
        if list_words:
            click.echo(f"{'':16} {each_word(words, counts)}")
        if masks:
            click.echo(split(words, counts, taught_words(masks)))


if __name__ == "__main__":
    main()
