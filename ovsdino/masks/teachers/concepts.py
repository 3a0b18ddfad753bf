"""Concepts: the words of the segmenters, and the meaning of their labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ovsdino.masks.errors import MaskError
from ovsdino_runtime.base.regular_file import regular_file

UNKNOWN = 0  # nobody can say
OTHER = 1  # surely none of the segmenters' words
FIRST = 2  # the first concept's number in label maps


@dataclass(frozen=True)
class Concept:
    """A concept: a kind of thing that has masks or boxes."""

    names: tuple[str, ...]  # what a user may type for it; the first stands for all
    ade: int | None = None  # label in the ADE20K-31 segmenter, from 1
    voc: int | None = None  # label in the VOC21 segmenters and in VOC's true masks, from 1
    cityscapes: int | None = None  # train id in the Cityscapes segmenter, from 0
    parent: int | None = None  # number of the wider concept (bird for goldfinch)

    @property
    def taught(self) -> bool:
        """Tell whether a segmenter has a label for it."""
        return any(label is not None for label in (self.ade, self.voc, self.cityscapes))


@dataclass(frozen=True)
class Concepts:
    """All concepts. A concept's number is its index plus :data:`FIRST`."""

    concepts: tuple[Concept, ...]
    imagenet: tuple[int, ...]  # number of each of the 1,000 ImageNet classes

    def number(self, teacher: str, label: int) -> int:
        """Return the number of a segmenter's label."""
        return FIRST + next(i for i, c in enumerate(self.concepts) if getattr(c, teacher) == label)

    def table(self, teacher: str) -> dict[int, int]:
        """Map a segmenter's labels to concept numbers."""
        labels = [(getattr(c, teacher), FIRST + i) for i, c in enumerate(self.concepts)]
        return {label: number for label, number in labels if label is not None}

    def __getitem__(self, number: int) -> Concept:
        return self.concepts[number - FIRST]

    @property
    def closed(self) -> tuple[str, ...]:
        """The words of the segmenters: pixels labelled "other" show none of them."""
        return tuple(dict.fromkeys(c.names[0] for c in self.concepts if c.taught))

    def synonyms(self) -> dict[str, tuple[str, ...]]:
        """Map each noun to all its names."""
        names: dict[str, tuple[str, ...]] = {}
        for concept in self.concepts:
            noun = concept.names[0]
            names[noun] = tuple(dict.fromkeys((*names.get(noun, ()), *concept.names)))
        return names

    def wider(self) -> dict[str, str]:
        """Map each noun to the noun of its wider concept."""
        pairs = ((c.names[0], self[c.parent].names[0]) for c in self.concepts if c.parent is not None)
        return {noun: parent for noun, parent in pairs if noun != parent}


def read_concepts(file: Path, imagenet: Path, nouns: Path | None) -> Concepts:
    """Read the segmenters' concepts, ImageNet's thousand classes and LVIS's nouns (for captions).

    Args:
        file: concepts and parents, as in ``recipes/nano/concepts.json``.
        imagenet: one class per line after a first line "background", synonyms separated by commas.
        nouns: LVIS's categories, a JSON list of objects with ``synonyms``; None adds no words.

    Raises:
        MaskError: a file is missing or has another format.
    """
    try:
        raw = json.loads(regular_file(file).read_text(encoding="utf-8"))
        concepts = [Concept(**{**c, "names": tuple(c["names"])}) for c in raw["teachers"]]
        parents = {
            index: FIRST + next(i for i, c in enumerate(concepts) if c.voc == group["voc"])
            for group in raw["imagenet_parents"]
            for first, last in group["ranges"]
            for index in range(first, last + 1)
        }
        lines = regular_file(imagenet).read_text(encoding="utf-8").splitlines()[1:]
        numbers = range(FIRST + len(concepts), FIRST + len(concepts) + len(lines))
        concepts += [Concept(common_names(line), parent=parents.get(i)) for i, line in enumerate(lines)]
        known = {name for c in concepts for name in c.names}
        for entry in json.loads(regular_file(nouns).read_text(encoding="utf-8")) if nouns else ():
            names = tuple(dict.fromkeys(clean(s) for s in entry["synonyms"]))
            if not known & set(names):
                concepts.append(Concept(names))
    except OSError as error:
        raise MaskError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, KeyError, TypeError, StopIteration) as error:
        raise MaskError(
            f"{file}, {imagenet}{f' or {nouns}' if nouns else ''}: not the expected list ({error!r})"
        ) from error
    return Concepts(tuple(concepts), tuple(numbers))


def common_names(line: str) -> tuple[str, ...]:
    """Return at most three names of an ImageNet line, without Latin binomials."""
    names = [name.strip() for name in line.split(",")]
    plain = [n for n in names if not (n[0].isupper() and " " in n and n.split()[1].islower())] or names
    return tuple(dict.fromkeys(n.lower() for n in plain))[:3]


def clean(name: str) -> str:
    """Convert LVIS's ``bow_(decorative_ribbons)`` to plain words."""
    return name.split("_(", maxsplit=1)[0].replace("_", " ").lower()
