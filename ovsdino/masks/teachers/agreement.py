"""Merge several segmenters into one label map; a pixel is unknown where they contradict each other.

Labels are concept numbers of :mod:`ovsdino.masks.teachers.concepts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ovsdino.masks.teachers.concepts import OTHER, UNKNOWN, Concepts
from ovsdino.masks.teachers.label_regions import BoxedWord, Labels
from ovsdino.masks.teachers.tflite import ByteLabels
from ovsdino.masks.teachers.word_boxes import NamedBox

MINIMUM = 0.01  # of the photo: smaller masks name nothing
MOST = 0.8  # of the photo: larger ones are not one thing
SURE = 0.5  # least probability of a named box
PERSON, RIDDEN = 15, (2, 13, 14)  # VOC: person; bicycle, horse, motorcycle
CAR = 7  # VOC
RIDER = 12  # Cityscapes
KIN = {9: 31, 11: 16, 16: 18, 18: 31}  # VOC -> ADE20K: chair, table, potted plant, sofa -> armchair, ...
# ADE20K: building, window, cabinet, ground, table, mountain, lamp(s), ...: what other things are taken for.
SHAKY = (2, 9, 11, 15, 16, 23, 25, 26, 28)


@dataclass(frozen=True)
class SetRules:
    """Rules for a set of photos: a folder directly below the photo folder."""

    voc_labels: bool = False  # VOC's true masks lie in ``labels/`` beside the photos' folder
    cityscapes: Literal["no", "agreed", "instead"] = "no"  # its segmenter counts: where it agrees, or alone
    one_class: bool = False  # sorted by name, photo i is of ImageNet's class i
    corners: bool = True  # ADE20K's segmenter looks at zoomed corners too, which takes five times as long


@dataclass(frozen=True)
class Opinions:
    """The label maps of a photo by each segmenter, in its own labels. Shape: (H, W) each."""

    ade: ByteLabels
    voc: ByteLabels
    voc_float: ByteLabels
    cityscapes: ByteLabels | None = None


def translate(labels: ByteLabels, table: dict[int, int], default: int) -> Labels:
    """Map a segmenter's labels to concept numbers."""
    lookup = np.full(256, default, np.uint16)
    lookup[list(table)] = list(table.values())
    return lookup[labels]


def merge(opinions: Opinions, concepts: Concepts, rules: SetRules) -> Labels:
    """Merge label maps: VOC's objects over ADE20K's regions; Cityscapes' over both, if the set allows.

    An object that only VOC's sharper segmenter finds is accepted where ADE20K's segmenter says the same or a
    related word, which is then kept; otherwise it is unknown, and so is a person or car that VOC's segmenter
    does not find.
    """
    regions = translate(opinions.ade, concepts.table("ade"), OTHER)
    objects = translate(opinions.voc, concepts.table("voc"), UNKNOWN)
    seen, alone = opinions.voc > 0, (opinions.voc > 0) & (opinions.voc != opinions.voc_float)
    denied = np.isin(regions, [concepts.number("voc", CAR), concepts.number("voc", PERSON)]) & ~seen
    kindred = translate(opinions.voc, {voc: concepts.number("ade", ade) for voc, ade in KIN.items()}, UNKNOWN)
    merged = np.where(seen, objects, regions)
    merged[alone] = np.where((regions == objects) | (regions == kindred), regions, UNKNOWN)[alone]
    merged[denied] = UNKNOWN
    if opinions.cityscapes is not None:
        street = translate(opinions.cityscapes, concepts.table("cityscapes"), UNKNOWN)
        if rules.cityscapes == "instead":
            return street
        merged = np.where((street == merged) | (merged <= OTHER), street, merged)
    return merged


def lay_truth(merged: Labels, truth: ByteLabels, concepts: Concepts) -> Labels:
    """Replace VOC objects of the segmenters by VOC's true masks; the former become "other"."""
    table = concepts.table("voc")
    merged = np.where(np.isin(merged, list(table.values())), np.uint16(OTHER), merged)
    inside = truth > 0
    merged[inside] = translate(truth, table, UNKNOWN)[inside]
    return merged


def name_riders(labels: Labels, concepts: Concepts) -> Labels:
    """Relabel a person as rider if the mask touches a bicycle, horse or motorcycle from above."""
    from scipy import ndimage

    person = labels == concepts.number("voc", PERSON)
    ridden = np.isin(labels, [concepts.number("voc", label) for label in RIDDEN])
    if not person.any() or ridden.mean() < MINIMUM:
        return labels
    labels = labels.copy()
    near = ndimage.binary_dilation(ridden, iterations=4)
    parts, count = ndimage.label(person)
    for part in range(1, count + 1):
        inside = parts == part
        touching = inside & near
        above = np.nonzero(inside.any(1))[0].mean() < np.nonzero(ridden.any(1))[0].mean()
        if touching.sum() > 0.05 * inside.sum() and above:
            labels[inside] = concepts.number("cityscapes", RIDER)
    return labels


def name_regions(
    labels: Labels, named: list[NamedBox], concepts: Concepts, *, alone: bool
) -> tuple[Labels, list[BoxedWord]]:
    """Give finer words to regions of which a classifier is certain; return words without a region as boxes.

    In a photo of a single object, a word without a region makes the labels unknown that the segmenters may
    have confused with it (building for lighthouse).

    Args:
        labels: concept numbers. Shape: (H, W).
        named: boxes and classes of the classifier.
        concepts: the meaning of the numbers.
        alone: whether the photo is known to show only this object.
    """
    labels, left_over = labels.copy(), []
    shaky = [concepts.number("ade", label) for label in SHAKY]
    for index in {entry.label for entry in named}:
        number = concepts.imagenet[index]
        mine = [entry for entry in named if entry.label == index]
        voted = vote(labels.shape, mine)
        region = voted & room_for(labels, number, concepts, alone=alone)
        if MINIMUM < region.mean() < MOST:
            labels[region] = number
        else:
            if alone:
                labels[voted & np.isin(labels, shaky)] = UNKNOWN
            left_over += [BoxedWord(number, entry.box, entry.probability) for entry in mine]
    return labels, left_over


def vote(size: tuple[int, ...], named: list[NamedBox]) -> NDArray[np.bool_]:
    """Return the pixels at which most of the covering boxes vote for a word. Shape: (H, W)."""
    height, width = size
    votes, seen = np.zeros((height, width)), np.zeros((height, width))
    for entry in named:
        left, top, right, bottom = (np.array(entry.box) * [width, height, width, height]).astype(int)
        votes[top:bottom, left:right] += entry.probability
        seen[top:bottom, left:right] += 1
    max_count: NDArray[np.bool_] = votes / np.maximum(seen, 1) > SURE
    return max_count


def room_for(labels: Labels, number: int, concepts: Concepts, *, alone: bool) -> NDArray[np.bool_]:
    """Return the pixels that a word may take: those of its parent, else those labelled "other".

    If the photo is known to show a single object, also pixels on which they disagree or that they label as a
    VOC object: they call a close-up of broccoli a dining table.
    """
    from scipy import ndimage

    parent = concepts[number].parent
    if parent is not None:
        inside: NDArray[np.bool_] = labels == parent
        return inside
    objects = [n for label, n in concepts.table("voc").items() if label != PERSON]
    room = np.isin(labels, [OTHER, UNKNOWN, *objects]) if alone else labels == OTHER
    opened: NDArray[np.bool_] = ndimage.binary_opening(room, iterations=3)
    return opened
