"""Nouns of WordNet: singular forms, visible things, synonyms, hypernyms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Lexicographer files of what has a body: Tops (animal, person, plant, ...), animal, artifact, body, food,
# object, person, phenomenon (snow, light), plant, substance. Source: lexnames(5WN).
PHYSICAL = frozenset({"03", "05", "06", "08", "13", "17", "18", "19", "20", "27"})
# Source: morphy(7WN), the rules of detachment for nouns.
ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
# To WordNet people are a group, not a plural.
PLURALS = {"people": "person"}


class Sense(NamedTuple):
    """One meaning of a noun."""

    lemma: str  # words separated by underscores
    file: str  # number of the lexicographer file
    synset: str
    rank: int  # among the lemma's senses; the most common has the least


@dataclass(frozen=True)
class Lexicon:
    """The nouns of WordNet, with irregular plurals and senses."""

    nouns: Mapping[str, bool]  # lemma, words separated by spaces -> whether a sense of it is physical
    irregular: Mapping[str, str]  # form -> lemma
    synsets: Mapping[str, tuple[str, ...]]  # lemma -> its physical synsets, the most common first
    above: Mapping[str, tuple[str, ...]]  # synset -> its hypernyms

    @classmethod
    def from_senses(
        cls, senses: Iterable[Sense], irregular: Mapping[str, str], above: Mapping[str, tuple[str, ...]]
    ) -> Lexicon:
        """Build a lexicon from senses, in any order."""
        nouns: dict[str, bool] = {}
        synsets: dict[str, tuple[str, ...]] = {}
        for sense in sorted(senses, key=lambda sense: sense.rank):
            lemma = sense.lemma.replace("_", " ").lower()
            nouns[lemma] = nouns.get(lemma, False) or sense.file in PHYSICAL
            if sense.file in PHYSICAL:
                synsets[lemma] = (*synsets.get(lemma, ()), sense.synset)
        return cls(nouns=nouns, irregular={**irregular, **PLURALS}, synsets=synsets, above=above)

    def lemma(self, word: str) -> str | None:
        """Return the singular of a noun (of several the shortest, as in NLTK); None for other words."""
        if word in self.irregular:
            return self.irregular[word]
        forms = [word, *(word[: -len(end)] + new for end, new in ENDINGS if word.endswith(end))]
        return min((form for form in forms if form in self.nouns), key=len, default=None)

    def physical(self, noun: str) -> bool:
        """Tell whether a noun is a visible thing; of an unknown compound, the last word decides."""
        return self.nouns.get(noun, False) or self.nouns.get(noun.rpartition(" ")[2], False)

    def synonyms(self, nouns: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Find the synonyms of each noun, the noun itself first. Nouns without synonyms are left out.

        A noun is taken in its most common physical sense.

        Source: OVS-DINO does not mention synonyms; this and :meth:`wider` are our reconstruction.
        """
        same: dict[str, list[str]] = {}
        for noun in sorted(nouns):
            for synset in self.synsets.get(noun, ())[:1]:
                same.setdefault(synset, []).append(noun)
        return {
            noun: (noun, *(other for other in group if other != noun))
            for group in same.values()
            for noun in group
            if len(group) > 1
        }

    def wider(self, nouns: Collection[str]) -> dict[str, str]:
        """Find for each noun its closest hypernym among the others (woman for lady); skip nouns without one.

        The search starts at the noun's most common physical sense and considers all physical senses of the
        others, so that it finds too many hypernyms rather than too few. For a compound that WordNet lacks, or
        that is not physical, the last words are its hypernym.
        """
        named: dict[str, set[str]] = {}
        for noun in nouns:
            for synset in self.synsets.get(noun, ()):
                named.setdefault(synset, set()).add(noun)
        names = self.synonyms(nouns)
        hypernyms = {}
        for noun in sorted(nouns):
            start = noun
            while " " in start and start not in self.synsets:
                start = start.partition(" ")[2]
                if start in nouns:
                    hypernyms[noun] = start
                    break
            else:
                if above := self._first_above(start, named, {noun, *names.get(noun, ())}):
                    hypernyms[noun] = above
        return hypernyms

    def _first_above(self, noun: str, named: Mapping[str, set[str]], own: set[str]) -> str | None:
        """Search upwards level by level; within a level by the rank of the sense, then by name."""
        level = list(self.synsets.get(noun, ())[:1])
        seen: set[str] = set()
        while level:
            seen.update(level)
            level = [up for synset in level for up in self.above.get(synset, ()) if up not in seen]
            candidates = {other for synset in level for other in named.get(synset, ())} - own
            if candidates:
                return min(candidates, key=lambda other: (self.synsets[other][0] not in level, other))
        return None
