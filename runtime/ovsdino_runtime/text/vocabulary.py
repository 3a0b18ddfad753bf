"""Class names: what the user types, files of names, and the lists of the well-known benchmarks."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.errors import ClassesError

BACKGROUND = "background"
MAX_CLASSES = 65535  # labels are 16-bit; one value is left for the background


@dataclass(frozen=True)
class Vocabulary:
    """Classes by name; a class is one or more words for the same thing, the first of which names it."""

    classes: tuple[tuple[str, ...], ...]  # without the background, which has no words
    background: bool = False  # label 0 is "none of these"
    name: str = ""
    source: str = ""
    background_classes: tuple[
        tuple[str, ...], ...
    ] = ()  # what belongs to the background: it has words, but no label

    def __post_init__(self) -> None:
        """Refuse classes that cannot be told apart.

        Raises:
            ClassesError: there is no class, too many, a class without a word, or two of the same name; or
                there are others without a background.
        """
        if not self.classes or len(self.entries) > MAX_CLASSES:
            raise ClassesError(f"got {len(self.entries)} classes: expected 1 to {MAX_CLASSES}")
        if self.background_classes and not self.background:
            raise ClassesError(
                f"background class {self.background_classes[0][0]!r}: the vocabulary has no background; "
                "set background=True"
            )
        seen: dict[str, int] = {BACKGROUND: 0} if self.background else {}
        for number, words in enumerate(self.classes, 1):
            if not words or not all(words):
                raise ClassesError(f"class {number} has an empty name; remove it or name it")
            if any("\ud800" <= character <= "\udfff" for word in words for character in word):
                raise ClassesError(f"class {number} is not text: {words[0]!a}; write it in UTF-8")
            if (name := words[0].casefold()) in seen:
                raise ClassesError(
                    f"class {number} has the name of class {seen[name]}: {words[0]!r}; rename one"
                )
            seen[name] = number

    @property
    def entries(self) -> tuple[tuple[str, ...], ...]:
        """All that is looked for: the classes, then the others."""
        return self.classes + self.background_classes

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each label, the background's first if there is one."""
        return (BACKGROUND,) * self.background + tuple(words[0] for words in self.classes)


@dataclass(frozen=True)
class _VocabularyFile:
    """Package data: classes as they are typed, with ``|`` between synonyms."""

    name: str
    source: str
    background: bool
    classes: tuple[str, ...]


def parse_classes(classes: str | Sequence[str]) -> Vocabulary:
    """Read classes as they are typed: ``"cat, car|automobile, grass"``, or ``"@FILE"`` with one class a line.

    Commas and line ends separate classes, ``|`` separates words for the same class. In a file, empty lines
    and lines that begin with ``#`` are skipped. A sequence holds one class in each text.

    Raises:
        ClassesError: no class, an empty one, a word that occurs twice, or a file that cannot be read.
    """
    if isinstance(classes, str):
        lines = _read_lines(classes[1:]) if classes.startswith("@") else [classes]
        classes = [entry for line in lines for entry in line.split(",")]
    if not any(entry.strip() for entry in classes):
        raise ClassesError("no class is given; write some words, such as 'cat, grass, sky'")
    vocabulary = Vocabulary(tuple(_words(entry) for entry in classes))
    seen: dict[str, str] = {}
    for words in vocabulary.classes:
        for word in words:
            if word.casefold() in seen:
                raise ClassesError(
                    f"{word!r} is in class {seen[word.casefold()]!r} and again in {words[0]!r}"
                )
            seen[word.casefold()] = words[0]
    return vocabulary


def as_vocabulary(
    classes: str | Sequence[str] | Vocabulary, *, background: bool, background_classes: str | None = None
) -> Vocabulary:
    """Accept classes in the forms in which callers have them.

    Args:
        classes: as they are typed, one text for each, or a vocabulary.
        background: whether label 0 is to be the background, whatever the vocabulary says.
        others: what is background as well; see `read_others`.

    Raises:
        ClassesError: they make no valid vocabulary.
    """
    if not isinstance(classes, Vocabulary):
        classes = parse_classes(classes)
    if background_classes is not None:
        return with_background_classes(classes, read_background_classes(background_classes))
    return replace(classes, background=True) if background else classes


def with_background_classes(vocabulary: Vocabulary, background_classes: Vocabulary) -> Vocabulary:
    """Give a vocabulary a background to which also belongs what others win; see `read_others`.

    What shares a word with a class is left out.
    """
    taken = {word.casefold() for words in vocabulary.classes for word in words}
    kept = tuple(
        words for words in background_classes.classes if not taken & {word.casefold() for word in words}
    )
    return replace(vocabulary, background=True, background_classes=kept)


def read_background_classes(text: str, parse: Callable[[str], Vocabulary] = parse_classes) -> Vocabulary:
    """Read what belongs to the background: words, or a packaged vocabulary's name, such as "surroundings".

    Args:
        text: as it was typed.
        parse: reads words.

    Raises:
        ClassesError: they make no valid vocabulary.
    """
    return load_vocabulary(text) if text in vocabulary_names() else parse(text)


def vocabulary_names() -> list[str]:
    """Name the packaged vocabularies."""
    files = (resources.files("ovsdino_runtime") / "data").iterdir()
    found = (re.fullmatch(r"vocabulary_(\w+)\.json", file.name) for file in files)
    return sorted(match[1] for match in found if match)


def load_vocabulary(name: str) -> Vocabulary:
    """Load a packaged vocabulary, such as ``ade150``; its labels are the benchmark's.

    Raises:
        ClassesError: there is none of that name; the message lists those that there are.
    """
    if name not in (known := vocabulary_names()):
        raise ClassesError(f"unknown vocabulary {name!r}: expected one of {', '.join(known)}")
    record = strict_json.parse(_VocabularyFile, strict_json.loads(_read_data(f"vocabulary_{name}.json")))
    classes = tuple(_words(entry) for entry in record.classes)
    return Vocabulary(classes, background=record.background, name=record.name, source=record.source)


def load_templates(text: str) -> tuple[str, ...]:
    """Load prompt templates: the name of a packaged set, ``"@FILE"`` with one a line, or one template.

    Raises:
        ClassesError: an unknown set, or a template without exactly one ``{}`` for the class's name.
    """
    packaged: dict[str, list[str]] = strict_json.loads(_read_data("templates.json"))  # type: ignore[assignment]
    if text in packaged:
        return tuple(packaged[text])
    if not text.startswith("@") and "{}" not in text:
        raise ClassesError(
            f"unknown templates {text!r}: expected one of {', '.join(packaged)}, @FILE, or a phrase with {{}}"
        )
    templates = _read_lines(text[1:]) if text.startswith("@") else [text]
    for template in templates:
        if template.count("{}") != 1:
            raise ClassesError(f"template {template!r}: expected {{}} once, where the class's name belongs")
    if not templates:
        raise ClassesError(f"{text[1:]}: no templates in it; write one a line, such as 'a photo of a {{}}.'")
    return tuple(templates)


def _words(entry: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in entry.split("|"))


def _read_lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise ClassesError(f"{path}: cannot be read: {reason}") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read_data(name: str) -> str:
    return (resources.files("ovsdino_runtime") / "data" / name).read_text(encoding="utf-8")
