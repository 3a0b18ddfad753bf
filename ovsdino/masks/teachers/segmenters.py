"""A source of masks: segmenters with fixed vocabularies, merged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ovsdino.masks.errors import MaskError
from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import PhotoMasks
from ovsdino.masks.teachers.agreement import (
    SURE,
    Opinions,
    SetRules,
    lay_truth,
    merge,
    name_regions,
    name_riders,
)
from ovsdino.masks.teachers.concepts import FIRST, Concepts
from ovsdino.masks.teachers.device import choose_device
from ovsdino.masks.teachers.label_regions import BoxedWord, Labels, photo_masks
from ovsdino.masks.teachers.tflite import TEACHERS, TfliteSegmenter
from ovsdino.masks.teachers.views import CORNER, label_in_views
from ovsdino.masks.teachers.word_boxes import NamedBox, WordBoxes
from ovsdino_runtime.files.labeled_folder import NOTHING, read_labels
from ovsdino_runtime.geometry.types import Photo

NAME = "segmenters"
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """The networks, the meaning of their labels, and rules for the sets of photos."""

    photos: Path  # the photo folder, for true masks beside the photos
    teachers: Path  # folder of the TFLite files
    concepts: Concepts
    rules: Mapping[str, SetRules] = field(default_factory=dict)  # by set
    classifier: Path | None = None  # ViT-Ti/16's checkpoint; None: no finer words
    classes: Mapping[str, int] = field(default_factory=dict)  # photo -> ImageNet class, where it is known
    device: str | None = "cpu"  # of the classifier; None: a GPU where there is one

    @property
    def name(self) -> str:
        """The source's name."""
        return NAME

    def describe(self) -> dict[str, object]:
        """Return everything that the masks depend on."""
        known = repr((self.concepts, sorted(self.rules.items()), sorted(self.classes.items())))
        return {
            "segmenters": self.teachers.name,
            "classifier": self.classifier.name if self.classifier else None,
            "corners of ade": CORNER,
            "concepts and sets": hashlib.sha256(known.encode()).hexdigest()[:16],
        }

    def open(self) -> Segmenters:
        """Load the networks.

        Raises:
            MaskError: a network is missing or damaged, or there is no such device.
        """
        networks = {
            name: TfliteSegmenter(self.teachers / teacher.file, floating=teacher.floating)
            for name, teacher in TEACHERS.items()
            if name != "cityscapes" or any(rules.cityscapes != "no" for rules in self.rules.values())
        }
        boxes = None if self.classifier is None else WordBoxes(self.classifier, choose_device(self.device))
        return Segmenters(self, networks, boxes)


@dataclass(frozen=True)
class Segmenters:
    """The segmenters and the classifier, loaded."""

    options: SegmenterOptions
    networks: Mapping[str, TfliteSegmenter]
    word_boxes: WordBoxes | None

    def __call__(self, photo: Photo, task: PhotoNouns) -> PhotoMasks:
        """Make a photo's masks; its nouns are words that several captions share. Shape: photo (H, W, 3)."""
        rules = self.options.rules.get(photo_set(task.image), SetRules())
        labels = self.label(photo, task.image, rules)
        named, alone = self.name_boxes(photo, task.image)
        labels, words = name_regions(labels, named, self.options.concepts, alone=alone)
        words += caption_words(task.nouns, labels, self.options.concepts)
        return photo_masks(task.image, labels, words=words, concepts=self.options.concepts)

    def label(self, photo: Photo, image: str, rules: SetRules) -> Labels:
        """Merge the labels of the segmenters, and true masks if there are any. Shape: (H, W)."""
        concepts, networks = self.options.concepts, self.networks
        opinions = Opinions(
            ade=label_in_views(networks["ade"], photo) if rules.corners else networks["ade"](photo),
            voc=networks["voc"](photo),
            voc_float=networks["voc_float"](photo),
            cityscapes=networks["cityscapes"](photo) if rules.cityscapes != "no" else None,
        )
        labels = merge(opinions, concepts, rules)
        file = (self.options.photos / image).parent.parent / "labels" / f"{Path(image).stem}.png"
        if rules.voc_labels and file.exists():
            labels = lay_truth(labels, read_truth(file, photo.shape[:2]), concepts)
        return name_riders(labels, concepts)

    def name_boxes(self, photo: Photo, image: str) -> tuple[list[NamedBox], bool]:
        """Return named boxes, and whether the photo shows a single object: true if its class is known."""
        if image in self.options.classes:
            return [NamedBox(WHOLE, self.options.classes[image], 1.0)], True
        if self.word_boxes is None:
            return [], False
        return self.word_boxes(photo, minimum=SURE), False


def photo_set(image: str) -> str:
    """Return the set of a photo: the folder directly below the photo folder."""
    return image.split("/", maxsplit=1)[0] if "/" in image else ""


def read_truth(file: Path, size: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read VOC's true labels of a photo. Shape: (H, W).

    Raises:
        LabelError: the file is broken, or has another format.
        MaskError: the file has another size, or values above 255.
    """
    truth = read_labels(file)
    if truth.shape != tuple(size) or truth.max() > NOTHING:
        raise MaskError(
            f"{file}: {truth.shape} with labels up to {truth.max()}, expected the photo's {tuple(size)}, "
            f"and {NOTHING} at most"
        )
    return truth.astype(np.uint8)


def caption_words(nouns: tuple[str, ...], labels: Labels, concepts: Concepts) -> list[BoxedWord]:
    """Return the caption words that the label map lacks, each with the whole photo as box."""
    numbers = {concept.names[0]: FIRST + i for i, concept in reversed(list(enumerate(concepts.concepts)))}
    present = set(np.unique(labels).tolist())
    return [BoxedWord(numbers[noun], WHOLE, 1.0) for noun in nouns if numbers[noun] not in present]
