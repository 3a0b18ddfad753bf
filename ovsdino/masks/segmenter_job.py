"""The job of ``ovsdino pseudo-masks --source segmenters``."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ovsdino.masks.errors import MaskError
from ovsdino.masks.make import MaskJob
from ovsdino.masks.nouns.captions import CaptionedPhoto, list_photos, read_captions
from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.teachers.agreement import SetRules
from ovsdino.masks.teachers.concepts import Concepts, clean, read_concepts
from ovsdino.masks.teachers.segmenters import SegmenterOptions, photo_set
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.regular_file import regular_file

if TYPE_CHECKING:
    from ovsdino.masks.options import MaskOptions

LABELS = "imagenet_labels.txt"
MIN_CAPTIONS = 2  # of a photo must share a word


def segmenter_job(request: MaskOptions) -> MaskJob:
    """Read the concepts; find the photos, and the words that several captions of each share.

    Raises:
        MaskError: a file is missing or invalid.
    """
    from ovsdino.masks.options import spread

    if request.teachers is None or request.concepts is None:
        raise MaskError("--source segmenters needs --teachers DIR and --concepts FILE")
    concepts = read_concepts(request.concepts, request.teachers / LABELS, request.lvis)
    rules = read_rules(request.concepts)
    images = tuple(image for image in list_photos(request.photos) if not is_label(image, rules))
    words: dict[str, tuple[str, ...]] = {}
    if request.captions is not None:
        captions = read_captions(request.captions, request.photos)
        words = {photo.image: shared_words(photo, concepts) for photo in captions.photos}
    options = SegmenterOptions(
        photos=request.photos.resolve(),
        teachers=request.teachers.resolve(),
        concepts=concepts,
        rules=rules,
        classifier=request.classifier and request.classifier.absolute(),
        classes=known_classes(images, rules, len(concepts.imagenet)),
        device=request.device,
    )
    return MaskJob(
        out=request.out,
        photos=request.photos,
        tasks=tuple(
            PhotoNouns(image, words.get(image, ()), ()) for image in spread(images, request.max_photos)
        ),
        source=options,
        shard_size=request.shard_size,
        beside={"synonyms.json": concepts.synonyms(), "wider.json": concepts.wider()},
    )


def read_rules(file: Path) -> dict[str, SetRules]:
    """Read the rules of the sets from the concepts file.

    Raises:
        MaskError: a rule is unknown.
    """
    raw = json.loads(regular_file(file).read_text(encoding="utf-8")).get("sets", {})
    defaults = asdict(SetRules())
    try:
        return {name: strict_json.parse(SetRules, {**defaults, **rules}, name) for name, rules in raw.items()}
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise MaskError(f"{file}: sets: {error}") from error


def is_label(image: str, rules: dict[str, SetRules]) -> bool:
    """Tell whether an image is a true mask instead of a photo."""
    rule = rules.get(photo_set(image))
    return rule is not None and rule.voc_labels and Path(image).parent.name == "labels"


def known_classes(images: tuple[str, ...], rules: dict[str, SetRules], classes: int) -> dict[str, int]:
    """Return the ImageNet class of each photo in sets with one photo per class, sorted by class.

    Raises:
        MaskError: such a set has more or fewer photos than there are classes.
    """
    known: dict[str, int] = {}
    for name in (name for name, set_rules in rules.items() if set_rules.one_class):
        mine = [image for image in images if photo_set(image) == name]
        if mine and len(mine) != classes:
            raise MaskError(f"{name}/ has {len(mine)} photos, expected one of each of {classes} classes")
        known |= {image: label for label, image in enumerate(mine)}
    return known


def shared_words(photo: CaptionedPhoto, concepts: Concepts) -> tuple[str, ...]:
    """Return the first names of the concepts that at least two of a photo's captions name."""
    nouns = {name: concept.names[0] for concept in reversed(concepts.concepts) for name in concept.names}
    counts: Counter[str] = Counter()
    for caption in photo.captions:
        text = f" {clean(caption)} ".replace(".", " ").replace(",", " ")
        counts.update({noun for name, noun in nouns.items() if f" {name} " in text or f" {name}s " in text})
    order = dict.fromkeys(concept.names[0] for concept in concepts.concepts)
    return tuple(noun for noun in order if counts[noun] >= MIN_CAPTIONS)
