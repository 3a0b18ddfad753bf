"""Stage 3 of nano: one label map a photo, from the teachers, the true masks and the named boxes.

Writes ``WORK/masks/SET/STEM.png`` (uint16: concept numbers of :mod:`concepts`) and ``WORK/words.json``: for
each photo the boxes that a word is known to be in without a mask.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from concepts import FIRST, OTHER, UNKNOWN, Concepts, clean, read_concepts
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy import ndimage
from teacher_labels import SETS

Labels = NDArray[np.uint16]
LEAST = 0.01  # of the photo: smaller masks name nothing
SURE = 0.5  # least probability of a named box
RIDDEN = (2, 13, 14)  # VOC: bicycle, horse, motorcycle
SHAKY = (
    2,
    9,
    11,
    15,
    16,
    23,
    25,
    26,
    28,
)  # ADE20K: building, window, cabinet, ... which other things are taken for


@dataclass(frozen=True)
class Sources:
    """Where labels come from."""

    data: Path
    work: Path
    concepts: Concepts
    boxes: dict[str, list[dict]]


def read_labels(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an indexed PNG, resized to (height, width) by nearest neighbour."""
    return np.asarray(Image.open(path).resize(size[::-1], Image.Resampling.NEAREST))


def translate(labels: NDArray[np.uint8], table: dict[int, int], default: int) -> Labels:
    """Map a teacher's labels to concept numbers."""
    lookup = np.full(256, default, np.uint16)
    lookup[list(table)] = list(table.values())
    return lookup[labels]


def teachers_agree(photo: Path, size: tuple[int, int], sources: Sources) -> Labels:
    """Merge the teachers: VOC's objects over ADE20K's regions, unknown where they contradict each other."""
    concepts = sources.concepts
    folder = sources.work / "teachers"

    def read(teacher: str) -> NDArray[np.uint8]:
        return read_labels(folder / teacher / photo_set(photo) / f"{photo.stem}.png", size)

    merged = translate(read("ade"), concepts.table("ade"), OTHER)
    sharp, second = read("voc"), read("voc_float")
    objects = translate(sharp, concepts.table("voc"), UNKNOWN)
    denied = np.isin(merged, [concepts.number("voc", 7), concepts.number("voc", 15)]) & (sharp == 0)
    merged[denied] = UNKNOWN
    merged[sharp > 0] = objects[sharp > 0]
    merged[(sharp != second) & (merged != objects)] = UNKNOWN
    merged[(sharp > 0) & (second != sharp) & (second > 0)] = UNKNOWN
    if (folder / "cityscapes" / photo_set(photo)).is_dir():
        street = translate(read("cityscapes"), concepts.table("cityscapes"), UNKNOWN)
        agreed = (street == merged) | (merged <= OTHER)
        merged = street if photo_set(photo) == "camvid" else np.where(agreed, street, merged)
    return merged.astype(np.uint16)


def photo_set(photo: Path) -> str:
    """Return the data set a photo belongs to: the folder under ``train``."""
    return next(part for part in reversed(photo.parts) if part in SETS)


def true_masks(merged: Labels, photo: Path, concepts: Concepts) -> Labels:
    """Lay VOC's true masks over the teachers' labels of the same photo."""
    path = photo.parent.parent / "labels" / f"{photo.stem}.png"
    if photo_set(photo) != "voc" or not path.exists():
        return merged
    truth = np.asarray(Image.open(path))
    table = concepts.table("voc")
    merged = np.where(np.isin(merged, list(table.values())), OTHER, merged)
    merged[truth > 0] = translate(truth, table, UNKNOWN)[truth > 0]
    return merged.astype(np.uint16)


def riders(labels: Labels, concepts: Concepts) -> Labels:
    """Call a person a rider where the mask touches a bicycle, a horse or a motorcycle from above."""
    person = labels == concepts.number("voc", 15)
    ridden = np.isin(labels, [concepts.number("voc", label) for label in RIDDEN])
    if not person.any() or ridden.mean() < LEAST:
        return labels
    near = ndimage.binary_dilation(ridden, iterations=4)
    parts, count = ndimage.label(person)
    for part in range(1, count + 1):
        inside = parts == part
        touching = inside & near
        below = np.nonzero(inside.any(1))[0].mean() < np.nonzero(ridden.any(1))[0].mean()
        if touching.sum() > 0.05 * inside.sum() and below:
            labels[inside] = concepts.number("cityscapes", 12)
    return labels


def voted_pixels(size: tuple[int, int], named: list[dict]) -> NDArray[np.bool_]:
    """Return where most of the boxes that hold a pixel vote for a word."""
    height, width = size
    votes, seen = np.zeros((height, width)), np.zeros((height, width))
    for entry in named:
        left, top, right, bottom = (np.array(entry["box"]) * [width, height, width, height]).astype(int)
        votes[top:bottom, left:right] += entry["p"]
        seen[top:bottom, left:right] += 1
    return votes / np.maximum(seen, 1) > SURE


def room_for(labels: Labels, number: int, concepts: Concepts, *, alone: bool) -> NDArray[np.bool_]:
    """Return where the teachers leave room for a word: in its parent's mask, else in what they call 'other'.

    Where the photo is known to be of one thing (``alone``), also in what the teachers disagree on or took
    for an animal or object of VOC's: VOC's teachers call a close-up of broccoli a dining table.
    """
    parent = concepts[number].parent
    if parent is not None:
        return labels == parent
    objects = [n for label, n in concepts.table("voc").items() if label != 15]  # not a person
    room = np.isin(labels, [OTHER, UNKNOWN, *objects]) if alone else labels == OTHER
    return ndimage.binary_opening(room, iterations=3)


def name_words(labels: Labels, photo: Path, sources: Sources) -> tuple[Labels, list[dict]]:
    """Give finer names to regions that a classifier is sure of; return those that found no mask as boxes.

    A word without a mask casts doubt on what the teachers may have taken it for (a lighthouse: building).
    """
    concepts, left_over = sources.concepts, []
    shaky = [concepts.number("ade", label) for label in SHAKY]
    named = [entry for entry in sources.boxes.get(photo.stem, []) if entry["p"] >= SURE]
    words = {entry["class"] for entry in named}
    alone = photo_set(photo) == "imagenet"
    if alone:
        truth = sorted(p.stem for p in photo.parent.glob("*.jpg")).index(photo.stem)
        named, words = [{"box": [0, 0, 1, 1], "class": truth, "p": 1.0}], {truth}
    for index in words:
        number = concepts.imagenet[index]
        mine = [entry for entry in named if entry["class"] == index]
        voted = voted_pixels(labels.shape, mine)
        region = voted & room_for(labels, number, concepts, alone=alone)
        if LEAST < region.mean() < 0.8:
            labels[region] = number
        else:
            labels[voted & np.isin(labels, shaky)] = UNKNOWN
            left_over += [{"box": entry["box"], "number": number} for entry in mine]
    return labels, left_over


def caption_words(captions: Path, concepts: Concepts) -> dict[str, list[int]]:
    """Return the concepts whose names stand in a photo's captions, longest names first."""
    raw = json.loads(captions.read_text())
    stems = {image["id"]: Path(image["file_name"]).stem for image in raw["images"]}
    names = {name: FIRST + i for i, c in reversed(list(enumerate(concepts.concepts))) for name in c.names}
    found: dict[str, list[int]] = {}
    for note in raw["annotations"]:
        text = f" {clean(note['caption'])} ".replace(".", " ").replace(",", " ")
        hits = {number for name, number in names.items() if f" {name} " in text or f" {name}s " in text}
        found.setdefault(stems[note["image_id"]], []).extend(hits)
    return {stem: sorted(n for n in set(ns) if ns.count(n) >= 2) for stem, ns in found.items()}


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--work", type=click.Path(exists=True, path_type=Path), required=True)
def main(data: Path, weights: Path, work: Path) -> None:
    """Merge all labels of DATA/train into WORK/masks and WORK/words.json."""
    concepts = read_concepts(weights)
    sources = Sources(data, work, concepts, json.loads((work / "boxes.json").read_text()))
    captions = caption_words(weights / "words" / "coco_captions_val2017.json", concepts)
    words: dict[str, list[dict]] = {}
    for photo in track(sorted((data / "train").rglob("*.jpg")), description="masks"):
        width, height = Image.open(photo).size
        labels = true_masks(teachers_agree(photo, (height, width), sources), photo, concepts)
        labels, left_over = name_words(riders(labels, concepts), photo, sources)
        present = set(np.unique(labels).tolist())
        left_over += [
            {"box": [0, 0, 1, 1], "number": n} for n in captions.get(photo.stem, []) if n not in present
        ]
        if left_over:
            words[photo.stem] = left_over
        folder = work / "masks" / photo_set(photo)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(folder / f"{photo.stem}.png")
    (work / "words.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main()
