"""Vocabularies (named classes and their synonyms), packaged vocabularies, and prompt templates."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.text.class_files import read_text, text_lines

BACKGROUND = "background"
MAX_CLASSES = 65535  # labels are 16-bit; one value is left for the background


@dataclass(frozen=True)
class Vocabulary:
    """A list of classes. A class is one or more synonyms, of which the first is its name.

    Example:
        >>> vocabulary = Vocabulary((("cat",), ("car", "automobile")), background=True)
        >>> vocabulary.names
        ('background', 'cat', 'car')
    """

    classes: tuple[tuple[str, ...], ...]  # without the background, which has no words
    background: bool = False  # label 0 is "none of these"
    name: str = ""
    source: str = ""
    background_classes: tuple[tuple[str, ...], ...] = ()  # count as background: they have words, but no label

    def __post_init__(self) -> None:
        """Reject invalid classes.

        Raises:
            ClassesError: there is no class or too many, a class has no word, two have the same name, or there
                are background classes without a background.
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
        """Everything that has words: the classes, then the background classes."""
        return self.classes + self.background_classes

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each label; "background" first if there is one."""
        return (BACKGROUND,) * self.background + tuple(words[0] for words in self.classes)


@dataclass(frozen=True)
class _VocabularyFile:
    """A packaged vocabulary file: classes as text, with ``|`` between synonyms."""

    name: str
    source: str
    background: bool
    classes: tuple[str, ...]


@cache
def vocabulary_names() -> tuple[str, ...]:
    """List the names of the packaged vocabularies."""
    files = (resources.files("ovsdino_runtime") / "data").iterdir()
    matches = (re.fullmatch(r"vocabulary_(\w+)\.json", file.name) for file in files)
    return tuple(sorted(match[1] for match in matches if match))


def load_vocabulary(name: str) -> Vocabulary:
    """Load a packaged vocabulary, such as ``ade150``; its labels are those of the benchmark.

    Raises:
        ClassesError: there is no vocabulary of that name; the message lists the known names.
    """
    if name not in (known := vocabulary_names()):
        raise ClassesError(f"unknown vocabulary {name!r}: expected one of {', '.join(known)}")
    record = strict_json.parse(_VocabularyFile, strict_json.loads(_read_data(f"vocabulary_{name}.json")))
    classes = tuple(_words(entry) for entry in record.classes)
    return Vocabulary(classes, background=record.background, name=record.name, source=record.source)


def write_list(vocabulary: Vocabulary) -> str:
    """Format a vocabulary as the text of a class file, which `class_lists.read_classes` parses.

    Lines are in label order, the background first, so that the text can serve as a ``names.txt``. A synonym
    that another class has as well is left out.
    """
    owners = {words[0]: number for number, words in enumerate(vocabulary.classes)}
    for number, words in enumerate(vocabulary.classes):
        for word in words:
            owners.setdefault(word, number)
    classes = [
        [word for word in words if owners[word] == number] for number, words in enumerate(vocabulary.classes)
    ]
    head = [f"# {vocabulary.name}: {vocabulary.source}"] if vocabulary.source else []
    background = [BACKGROUND] * vocabulary.background
    return "\n".join([*head, *background, *map("|".join, classes), ""])


def load_templates(text: str) -> tuple[str, ...]:
    """Load prompt templates: the name of a packaged set, ``"@FILE"`` with one per line, or one template.

    Raises:
        ClassesError: the set is unknown, or a template does not contain ``{}`` for the class name exactly
            once.
    """
    packaged: dict[str, list[str]] = strict_json.loads(_read_data("templates.json"))  # type: ignore[assignment]
    if text in packaged:
        return tuple(packaged[text])
    if not text.startswith("@"):
        if "{}" not in text:
            raise ClassesError(
                f"unknown templates {text!r}: expected one of {', '.join(packaged)}, @FILE, or a phrase with "
                "{}"
            )
        return check_templates([text])
    if templates := text_lines(read_text(Path(text[1:]))):
        return check_templates(templates)
    raise ClassesError(f"{text[1:]}: no templates in it; write one a line, such as 'a photo of a {{}}.'")


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Check prompt templates: each must contain ``{}``, the place of the class name, exactly once.

    Args:
        templates: a list of templates; for a string use `load_templates`.

    Raises:
        ClassesError: there is no template, or one is invalid.
    """
    if isinstance(templates, str):
        return load_templates(templates)
    if not isinstance(templates, Sequence) or not templates:
        raise ClassesError(f"templates are {templates!r:.40}: expected a list such as ['a photo of a {{}}.']")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ClassesError(
                f"template {template!r:.60}: expected {{}} once, where the class's name belongs"
            )
    return tuple(templates)


def _words(entry: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in entry.split("|"))


def _read_data(name: str) -> str:
    return (resources.files("ovsdino_runtime") / "data" / name).read_text(encoding="utf-8")
