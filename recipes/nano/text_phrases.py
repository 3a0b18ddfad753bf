"""What a training phrase is, which phrases are withheld, and the names to find neighbours among."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

WITHHELD_PERCENT = 4


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase the teacher is asked about.

    ``core`` is the phrase without determiner, template or adjective that was put around it; ``weight`` is its
    relative chance to be drawn among the phrases of its ``source``.
    """

    text: str
    source: str
    core: str
    weight: float

    @property
    def withheld(self) -> bool:
        """Tell whether training must never see this phrase; published class names are never withheld."""
        return self.source != "classes" and (_hashed_out(self.text) or _hashed_out(self.core))


def _hashed_out(text: str) -> bool:
    """Decide by the text alone, so that the split is the same on every machine and in every later recipe."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100 < WITHHELD_PERCENT


def normalise(text: str) -> str:
    """Lower-case, underscores to spaces, single spaces: the form under which duplicates are found."""
    return " ".join(text.replace("_", " ").lower().split())


def lvis_bank(categories: Path) -> list[str]:
    """The 1,203 LVIS names as people write them, "car (automobile)" as "car" where that is unambiguous."""
    names = [normalise(category["name"]) for category in json.loads(categories.read_text())]
    bare = [name.split(" (")[0] for name in names]
    counts = Counter(bare)
    return [short if counts[short] == 1 else name for short, name in zip(bare, names, strict=True)]


def write_phrases(path: Path, phrases: list[Phrase]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(asdict(phrase)) + "\n" for phrase in phrases))


def read_phrases(path: Path) -> list[Phrase]:
    """Read what `write_phrases` wrote."""
    return [Phrase(**json.loads(line)) for line in path.read_text().splitlines()]
