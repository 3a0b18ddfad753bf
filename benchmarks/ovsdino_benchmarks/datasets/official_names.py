"""The official class names of the benchmarks, verbatim."""

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from ovsdino_runtime.files.labeled_folder import DataError
from ovsdino_runtime.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class OfficialNames:
    """A published list of names, in the order of our vocabulary of the same classes, without background.

    A name may contain synonyms, separated by ", " (ADE20K's 847 classes).
    """

    source: str  # repository, commit and file
    names: tuple[str, ...]


@cache
def official_names() -> dict[str, OfficialNames]:
    """Return the packaged lists, by the keys of `Benchmark.official`."""
    file = resources.files("ovsdino_benchmarks") / "data" / "official_names.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    return {key: OfficialNames(entry["source"], tuple(entry["names"])) for key, entry in raw.items()}


def with_official_names(vocabulary: Vocabulary, official: str) -> Vocabulary:
    """Return the same classes with the official names as their only words.

    Of several synonyms the first one is used, as in CAT-Seg. Some names occur twice in ADE20K's 847 classes
    ("bag"); repeated names get a trailing space, which tokenizers remove, so that class names differ but have
    the same embedding.

    Args:
        vocabulary: classes in the same order.
        official: a key of `official_names`.

    Raises:
        DataError: the vocabulary has another number of classes.
    """
    names = official_names()[official].names
    if len(names) != len(vocabulary.classes):
        raise DataError(
            f"official list {official} has {len(names)} classes, the labels have {len(vocabulary.classes)}; "
            "give --words all or --words first"
        )
    words: list[str] = []
    for name in names:
        word = name.partition(", ")[0]
        while word in words:
            word += " "
        words.append(word)
    return replace(vocabulary, classes=tuple((word,) for word in words))
