"""Extract and filter the nouns of captions.

Source: OVS-DINO: NLTK extracts noun categories from the captions; infrequent, incomplete and redundant ones
    are
filtered out. The thresholds and the list of excluded words are our reconstruction.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ovsdino.masks.nouns.captions import CaptionedPhoto
from ovsdino.masks.nouns.lexicon import Lexicon

# Of the photo and not of what it shows; quantities, places in the photo, colours.
_NOT_THINGS = """
photo photograph picture image view side top front back bottom middle center centre edge end corner background
foreground group couple lot piece bunch pair set number row line stack pile bit part kind type sort variety
assortment collection close closeup shot scene area place space spot way thing item object stuff something
someone one day time game play color colour black white red blue green yellow brown gray grey pink purple
"""
EXCLUDED = frozenset(_NOT_THINGS.split())


@dataclass(frozen=True)
class NounFilter:
    """Which nouns are kept."""

    min_captions: int = 100  # a noun must stand in so many
    least_length: int = 3  # [letters]


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun as written in a caption, and its entry in the lexicon."""

    form: str  # lower case
    lemma: str | None  # None: WordNet does not know it


Tagger = Callable[[list[str]], list[tuple[str, str]]]  # words -> words with their parts of speech
Runs = tuple[tuple[Noun, ...], ...]  # a caption's nouns; those that follow each other are together


@dataclass(frozen=True)
class PhotoNouns:
    """The nouns in the captions of one photo."""

    image: str
    nouns: tuple[str, ...]  # kept ones, in the order of the captions
    others: tuple[str, ...]  # the rest: said of the photo, but not looked for


def caption_runs(caption: str, tag: Tagger, lexicon: Lexicon) -> Runs:
    """Tokenise and tag a caption; return its runs of consecutive nouns."""
    from nltk.tokenize import NLTKWordTokenizer

    runs: list[tuple[Noun, ...]] = []
    for sentence in re.split(r"(?<=[.!?;])\s+", caption):
        run: list[Noun] = []
        for word, part in [*tag(NLTKWordTokenizer().tokenize(sentence)), ("", "END")]:
            form = word.lower()
            if part.startswith("N") and re.fullmatch(r"[^\W\d_]+(-[^\W\d_]+)*", form):
                run.append(Noun(form, lexicon.lemma(form)))
            elif run:
                runs.append(tuple(run))
                run = []
    return tuple(runs)


def split_run(run: Sequence[Noun], bigrams: frozenset[str]) -> list[str]:
    """Split a run into known bigrams, from the left, and single nouns."""
    names, place = [], 0
    while place < len(run):
        pair = _bigram(run[place], run[place + 1]) if place + 1 < len(run) else None
        if pair in bigrams and pair is not None:
            names.append(pair)
            place += 2
        else:
            names.append(run[place].lemma or run[place].form)
            place += 1
    return names


def count_nouns(captions: Iterable[Runs], lexicon: Lexicon, rules: NounFilter) -> Counter[str]:
    """Count the captions of each noun or bigram that passes the filter."""
    captions = list(captions)
    pairs: Counter[str] = Counter()
    for runs in captions:
        pairs.update({pair for run in runs for a, b in pairwise(run) if (pair := _bigram(a, b))})
    bigrams = frozenset(_passing(pairs, lexicon, rules))
    counts: Counter[str] = Counter()
    for runs in captions:
        counts.update({name for run in runs for name in split_run(run, bigrams)})
    return _passing(counts, lexicon, rules)


def photo_nouns(
    photos: Sequence[CaptionedPhoto], read: Callable[[str], Runs], *, lexicon: Lexicon, rules: NounFilter
) -> tuple[list[PhotoNouns], Counter[str]]:
    """Return the nouns of each photo over all its captions, and the vocabulary with caption counts.

    Args:
        photos: the photos with their captions.
        read: converts a caption to runs of nouns; see :func:`caption_runs`.
        lexicon, rules: decide which nouns are kept.
    """
    parsed = [[read(caption) for caption in photo.captions] for photo in photos]
    counts = count_nouns((runs for captions in parsed for runs in captions), lexicon, rules)
    bigrams = frozenset(noun for noun in counts if " " in noun)
    nouns = []
    for photo, captions in zip(photos, parsed, strict=True):
        runs = [run for caption in captions for run in caption]
        names = dict.fromkeys(name for run in runs for name in split_run(run, bigrams))
        words = dict.fromkeys(noun.lemma or noun.form for run in runs for noun in run)
        others = tuple(name for name in {**names, **words} if name not in counts or name not in names)
        nouns.append(PhotoNouns(photo.image, tuple(name for name in names if name in counts), others))
    return nouns, counts


def _bigram(first: Noun, second: Noun) -> str | None:
    """Join two nouns, the second in the singular: "sports balls" becomes "sports ball"."""
    return f"{first.form} {second.lemma}" if second.lemma and first.lemma else None


def _passing(counts: Counter[str], lexicon: Lexicon, rules: NounFilter) -> Counter[str]:
    return Counter(
        {
            noun: count
            for noun, count in counts.items()
            if count >= rules.min_captions
            and not EXCLUDED.intersection(noun.split())
            and min(map(len, noun.split())) >= rules.least_length
            and lexicon.physical(noun)
        }
    )
