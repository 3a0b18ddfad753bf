"""Synonyms, wider nouns and parts, which must not serve as each other's negatives, and extra distractors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.regular_file import regular_file

SYNONYMS, WIDER = "synonyms.json", "wider.json"
PARTS, DISTRACTORS = "parts.json", "distractors.json"


class SynonymError(OvsdinoError):
    """A file of synonyms, wider nouns, parts or distractors is broken."""


@dataclass(frozen=True)
class Synonyms:
    """Names of nouns, and hypernyms such as bird for goldfinch.

    Source: OVS-DINO does not mention synonyms; excluding them from the negatives is our reconstruction.
    """

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # noun -> its names, itself first
    wider: Mapping[str, str] = field(default_factory=dict)  # noun -> the next wider noun
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # noun -> right at the same pixels

    @property
    def nouns(self) -> tuple[str, ...]:
        """All nouns with names."""
        return tuple(self.names)

    def names_of(self, noun: str) -> tuple[str, ...]:
        """Return the names of a noun."""
        return self.names.get(noun, (noun,))

    def related(self, nouns: Iterable[str]) -> dict[str, frozenset[str]]:
        """Find for each noun the nouns that share a name with it, are wider or narrower; without itself.

        If no wider noun of a compound is known, its last word serves as one: a tennis racket is a racket.
        """
        nouns = list(dict.fromkeys(nouns))
        owners: dict[str, set[str]] = {}
        for noun in nouns:
            for name in {noun, *self.names_of(noun)}:
                owners.setdefault(name.casefold(), set()).add(noun)
        result: dict[str, set[str]] = {noun: set() for noun in nouns}
        for noun in nouns:
            above = (owners.get(wide.casefold(), set()) for wide in self._wider_than(noun))
            for other in set().union(*(owners[name.casefold()] for name in self.names_of(noun)), *above):
                result[noun].add(other)
                result[other].add(noun)
        return {noun: frozenset(others - {noun}) for noun, others in result.items()}

    def overlapping(self, nouns: Iterable[str]) -> dict[str, frozenset[str]]:
        """Find for each noun the nouns that may be true at the same pixels, such as building for window."""
        result: dict[str, set[str]] = {noun: set() for noun in nouns}
        for noun, others in result.items():
            for whole in result.keys() & set(self.parts.get(noun, ())):
                others.add(whole)
                result[whole].add(noun)
        return {noun: frozenset(others - {noun}) for noun, others in result.items()}

    def _wider_than(self, noun: str) -> list[str]:
        """Return all wider nouns, from the closest to the widest."""
        if not self.names and not self.wider:
            words = noun.split()
            return [" ".join(words[start:]) for start in range(1, len(words))]
        chain: list[str] = []
        while (above := self.wider.get(chain[-1] if chain else noun)) and above not in [noun, *chain]:
            chain.append(above)
        return chain


def read_synonyms(folder: Path) -> Synonyms:
    """Read ``synonyms.json``, ``wider.json`` and ``parts.json`` beside the masks; each may be missing.

    Raises:
        SynonymError: a file has another format.
    """
    names, parts = _read_lists(folder / SYNONYMS), _read_lists(folder / PARTS)
    wider = _read(folder / WIDER)
    for noun, above in wider.items():
        if not isinstance(above, str):
            raise SynonymError(f"{folder / WIDER}: {noun!r}: got {above!r}, expected the wider noun")
    return Synonyms(names, wider, parts)


def read_distractors(folder: Path) -> tuple[str, ...]:
    """Read ``distractors.json`` beside the masks: words without masks that most photos lack.

    Raises:
        SynonymError: the file is not a list of words.
    """
    path = folder / DISTRACTORS
    words = _load(path) if path.exists() else []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise SynonymError(f"{path}: got {type(words).__name__}, expected a list of words")
    return tuple(dict.fromkeys(words))


def _read_lists(path: Path) -> dict[str, tuple[str, ...]]:
    lists = _read(path)
    for noun, names in lists.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise SynonymError(f"{path}: {noun!r}: got {names!r}, expected a list of names")
    return {noun: tuple(dict.fromkeys(names)) for noun, names in lists.items()}


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    raw = _load(path)
    if not isinstance(raw, dict):
        raise SynonymError(f"{path}: got {type(raw).__name__}, expected an object {{noun: ...}}")
    return raw


def _load(path: Path) -> object:
    try:
        return json.loads(regular_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SynonymError(f"{path}: damaged ({error}); make it again or delete it") from error
