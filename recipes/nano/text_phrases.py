"""Training phrases, the rule that withholds some of them, and the LVIS names used as neighbours."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

WITHHELD_PERCENT = 4


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase that the teacher embeds.

    ``core`` is the phrase without determiner, template or adjective that was put around it; ``weight`` is its
    relative chance to be drawn among the phrases of its ``source``.
    """

    text: str
    source: str
    core: str
    weight: float

    @property
    def withheld(self) -> bool:
        """Tell whether the phrase is withheld from training; published class names never are."""
        return self.source != "classes" and (_hashed_out(self.text) or _hashed_out(self.core))


def _hashed_out(text: str) -> bool:
    """Decide from the text alone, so that the split is the same on every machine and in every recipe."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100 < WITHHELD_PERCENT


def normalise(text: str) -> str:
    """Normalise a phrase to find duplicates: lower case, underscores to spaces, single spaces."""
    return " ".join(text.replace("_", " ").lower().split())


def lvis_bank(categories: Path) -> list[str]:
    """Return the 1,203 LVIS names in plain form: "car (automobile)" becomes "car" if that is unambiguous."""
    names = [normalise(category["name"]) for category in json.loads(categories.read_text())]
    bare = [name.split(" (")[0] for name in names]
    counts = Counter(bare)
    return [short if counts[short] == 1 else name for short, name in zip(bare, names, strict=True)]


def write_phrases(path: Path, phrases: list[Phrase]) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(asdict(phrase)) + "\n" for phrase in phrases))


def read_phrases(path: Path) -> list[Phrase]:
    """Read a file written by `write_phrases`."""
    return [Phrase(**json.loads(line)) for line in path.read_text().splitlines()]
