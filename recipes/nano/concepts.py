"""The words that nano's training photos are labelled with, and where each comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = 0  # nobody can say
OTHER = 1  # surely none of the teachers' words
FIRST = 2  # the first concept's number in label maps


@dataclass(frozen=True)
class Concept:
    """One thing that a mask or a box can be of."""

    names: tuple[str, ...]  # what a user may type; drawn at random in training
    ade: int | None = None  # label in the ADE20K-31 teacher
    voc: int | None = None  # label in the VOC21 teachers and in VOC's true masks
    cityscapes: int | None = None  # label in the Cityscapes teacher
    parent: int | None = None  # number of the wider concept (bird for goldfinch)


@dataclass(frozen=True)
class Concepts:
    """All concepts; a concept's number is its place plus :data:`FIRST`."""

    concepts: tuple[Concept, ...]
    imagenet: tuple[int, ...]  # number of each of the 1,000 ImageNet classes

    def number(self, teacher: str, label: int) -> int:
        """Return the number of a teacher's label."""
        return FIRST + next(i for i, c in enumerate(self.concepts) if getattr(c, teacher) == label)

    def table(self, teacher: str) -> dict[int, int]:
        """Return teacher's label -> concept number."""
        labels = [(getattr(c, teacher), FIRST + i) for i, c in enumerate(self.concepts)]
        return {label: number for label, number in labels if label is not None}

    def __getitem__(self, number: int) -> Concept:
        return self.concepts[number - FIRST]

    @property
    def taught(self) -> int:
        """How many concepts a teacher points at; the rest are words only."""
        return sum(any(v is not None for v in (c.ade, c.voc, c.cityscapes)) for c in self.concepts)


def read_concepts(weights: Path, nouns: Path | None = None) -> Concepts:
    """Read the teachers' concepts, ImageNet's thousand classes and LVIS's nouns (for captions)."""
    raw = json.loads((Path(__file__).parent / "concepts.json").read_text())
    concepts = [Concept(**{**c, "names": tuple(c["names"])}) for c in raw["teachers"]]
    parents = {
        index: FIRST + next(i for i, c in enumerate(concepts) if c.voc == group["voc"])
        for group in raw["imagenet_parents"]
        for first, last in group["ranges"]
        for index in range(first, last + 1)
    }
    lines = (weights / "teachers" / "imagenet_labels.txt").read_text().splitlines()[1:]
    imagenet = range(FIRST + len(concepts), FIRST + len(concepts) + len(lines))
    concepts += [Concept(common_names(line), parent=parents.get(i)) for i, line in enumerate(lines)]
    known = {name for c in concepts for name in c.names}
    for entry in json.loads((nouns or weights / "words" / "lvis_v1_categories.json").read_text()):
        names = tuple(dict.fromkeys(clean(s) for s in entry["synonyms"]))
        if not known & set(names):
            concepts.append(Concept(names))
    return Concepts(tuple(concepts), tuple(imagenet))


def common_names(line: str) -> tuple[str, ...]:
    """Return at most three names of an ImageNet line, Latin binomials left out."""
    names = [name.strip() for name in line.split(",")]
    plain = [n for n in names if not (n[0].isupper() and " " in n and n.split()[1].islower())] or names
    return tuple(dict.fromkeys(n.lower() for n in plain))[:3]


def clean(name: str) -> str:
    """Turn LVIS's ``bow_(decorative_ribbons)`` into words."""
    return name.split("_(", maxsplit=1)[0].replace("_", " ").lower()
