"""Parse classes, background classes and thresholds, for files, commands, server, demo page and Python alike.

A string is ``"cat, car|automobile, sky"``: commas and line ends separate classes, ``|`` separates synonyms of
a class. It may also be the name of a packaged vocabulary, JSON, or ``"@FILE"`` (see `class_files`). A list
holds one class per string; a mapping maps each name to its synonyms. If the first class is named
``background``, it is label 0, has no words, and gets the pixels that fit no other class.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from numbers import Real
from typing import Literal, TypeAlias

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.text.class_files import parse_json, read_list, text_lines
from ovsdino_runtime.text.vocabulary import BACKGROUND, Vocabulary, load_vocabulary, vocabulary_names

Classes: TypeAlias = str | Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]] | Vocabulary
Background: TypeAlias = float | Literal["none"] | None  # None: as the vocabulary says

BACKGROUND_NAMES = (BACKGROUND, "_background_", "__background__")  # the last ones are labelme's and LabelMe's
IGNORED_NAME = "__ignore__"  # labelme's
SEPARATORS = "\uff0c\u3001;\uff1b\uff5c\u00a6"  # full-width and others, taken for ours by mistake
QUESTIONABLE = ";'\""  # of ASCII's printable characters: separators taken for ours, and quotes
FILE = re.compile(r"\S+\.(txt|json|csv|tsv|ya?ml|names)", re.IGNORECASE)
MAX_NUMBER = 40  # characters: the pattern's time grows with their square
NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE]-?\d+)?", re.ASCII)
EXAMPLE = "write some words, such as 'cat, grass, sky'"


def read_classes(classes: Classes, *, files: bool = True) -> Vocabulary:
    """Parse classes from a string, list, mapping or vocabulary.

    Args:
        classes: a string, a list, a mapping or a vocabulary; see the module's first lines.
        files: whether a string may name a file of this machine. Choose False for text from untrusted clients.

    Raises:
        ClassesError: there is no class, a class is empty, a word occurs twice, a file cannot be read, or the
            value is not a list of classes.
    """
    given: object = classes  # callers in Python may give anything
    if isinstance(given, Vocabulary):
        return given
    if isinstance(given, str):
        return _read_string(given, files=files)
    if isinstance(given, Mapping | Sequence) and not isinstance(given, bytes | bytearray):
        return read_listed(given)
    if isinstance(given, Set):
        raise ClassesError("classes are a set, which has no order: labels need one; give a list")
    raise ClassesError(
        f"classes are {type(given).__name__}: expected text such as 'cat, sky', a list of names, a mapping "
        "of names to synonyms, or a Vocabulary"
    )


def read_listed(classes: Sequence[object] | Mapping[str, object]) -> Vocabulary:
    """Parse a list with one class per string, or a mapping of names to synonyms.

    Raises:
        ClassesError: they do not form a valid vocabulary.
    """
    pairs = classes.items() if isinstance(classes, Mapping) else ((name, ()) for name in classes)
    entries = [
        tuple(word for text in _texts(name, number) + _texts(synonyms, number) for word in _words(text))
        for number, (name, synonyms) in enumerate(pairs, 1)
    ]
    return _make(entries)


def read_background_classes(classes: Classes, *, files: bool = True) -> Vocabulary:
    """Parse classes that count as background, in any form of `read_classes`, such as "surroundings".

    Raises:
        ClassesError: the classes do not form a valid vocabulary, or contain a background themselves.
    """
    vocabulary = read_classes(classes, files=files)
    if vocabulary.background:
        raise ClassesError("the background classes name a background themselves; leave it out")
    return vocabulary


def choose_classes(
    classes: Classes | None,
    vocabulary: str | None = None,
    *,
    background: Background = None,
    background_classes: Classes | None = None,
    files: bool = True,
) -> Vocabulary:
    """Parse classes together with their background.

    Args:
        classes: see `read_classes`; give either this or ``vocabulary``.
        vocabulary: the name of a packaged vocabulary.
        background: a threshold in 0..1, or "none"; None uses the vocabulary's default.
        background_classes: classes that count as background; see `read_background_classes`.
        files: see `read_classes`.

    Raises:
        ClassesError: neither or both of classes and vocabulary are given, they are not valid, the threshold
            is not in 0..1, or there are background classes although ``background`` is "none".
    """
    if (classes is None) == (vocabulary is None):
        raise ClassesError("give either classes, such as 'cat, grass, sky', or a vocabulary, such as ade150")
    chosen = load_vocabulary(vocabulary or "") if classes is None else read_classes(classes, files=files)
    background = check_background(background)
    if background is not None:
        chosen = replace(chosen, background=background != "none")
    if background_classes is None:
        return chosen
    if background == "none":
        raise ClassesError("background classes belong to the background: leave out background 'none'")
    return with_background_classes(chosen, read_background_classes(background_classes, files=files))


def with_background_classes(vocabulary: Vocabulary, background_classes: Vocabulary) -> Vocabulary:
    """Add a background to a vocabulary, with classes whose pixels count as background.

    A background class that shares a word with a class is left out.
    """
    taken = {word.casefold() for words in vocabulary.classes for word in words}
    kept = tuple(
        words for words in background_classes.classes if not taken & {word.casefold() for word in words}
    )
    return replace(vocabulary, background=True, background_classes=kept)


def check_background(background: object) -> Background:
    """Check a background threshold: a number in 0..1, "none" for no background, or None for the default.

    Raises:
        ClassesError: the value is something else, such as True or "0.5".
    """
    if background is None:
        return None
    if isinstance(background, str) and background == "none":
        return "none"
    if isinstance(background, bool) or not isinstance(background, Real):
        raise ClassesError(f"the background's threshold must be a number in 0..1, got {background!r:.40}")
    if not 0 <= (threshold := float(background)) <= 1:
        raise ClassesError(f"the background's threshold must be in 0..1, got {background}")
    return threshold


def labelled_background(vocabulary: Vocabulary, threshold: float | None = None) -> Background:
    """Return the background under which predicted labels mean what those of a labelled data set mean.

    One class alone has a background by default, which moves the class to label 1. The labels of a data set
    without a background have none, so every pixel must get a class.

    Args:
        vocabulary: the data set's classes.
        threshold: of the background, where the vocabulary has one; None takes the model's own.
    """
    return threshold if vocabulary.background else "none"


def parse_background(text: str | None) -> Background:
    """Parse a background threshold from text: a number in 0..1, or "none".

    Raises:
        ClassesError: the text is something else.
    """
    if text is None or text == "none":
        return text  # type: ignore[return-value] # a str that is "none"
    if len(text) <= MAX_NUMBER and NUMBER.fullmatch(text) and 0 <= float(text) <= 1:
        return float(text)
    raise ClassesError(f"background {text[:40]!r} is neither 'none' nor a number in 0..1")


def _read_string(text: str, *, files: bool) -> Vocabulary:
    name = text.strip()
    if name in vocabulary_names():
        return load_vocabulary(name)
    if name.startswith("@"):
        if not files:
            raise ClassesError(f"{name[:40]!r} names a file, and files are not read here; send the names")
        return _locate(name[1:].strip())
    if name[:1] in ("[", "{"):
        return read_listed(parse_json(name, "the classes"))
    if FILE.fullmatch(name):
        cure = f"write '@{name}' to read its classes" if files else "send the names themselves"
        raise ClassesError(f"{name!r} looks like a file: {cure}")
    entries = [entry for line in text_lines(text) for entry in line.split(",")]
    return _make([_words(entry) for entry in entries])


def _locate(path: str) -> Vocabulary:
    """Read a file, and name it in every error."""
    listed = read_list(path)
    try:
        return read_listed(listed)
    except ClassesError as error:
        raise ClassesError(f"{path}: {error}") from error


def _texts(value: object, number: int) -> tuple[str, ...]:
    """Flatten a name or its synonyms to strings."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence) and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise ClassesError(f"class {number} is {value!r:.40}: expected text, such as 'cat' or 'car|automobile'")


def _words(entry: str) -> tuple[str, ...]:
    return tuple(_clean(word) for word in entry.split("|"))


def _clean(word: str) -> str:
    """Normalise a word: NFC, single spaces, no invisible characters.

    Raises:
        ClassesError: the word contains a control character or an unusual separator, or has no letter or
            digit.
    """
    if word.isascii() and word.isprintable() and not set(word) & set(QUESTIONABLE):
        text = " ".join(word.split())  # the rules below change nothing, character by character
        if not text or any(map(str.isalnum, text)):
            return text
    if any("\ud800" <= character <= "\udfff" for character in word):
        raise ClassesError(f"{word.strip()!a} is not text; write it in UTF-8")
    if separator := next((c for c in word if c in SEPARATORS or c == "\t"), None):
        raise ClassesError(
            f"{word.strip()!r} holds {separator!r}: separate classes by ',' (in a file: one a line) and "
            "words for the same class by '|'"
        )
    text = " ".join(_visible(unicodedata.normalize("NFC", word)).split())
    if control := next((c for c in text if unicodedata.category(c) == "Cc"), None):
        raise ClassesError(f"{text!r} holds the control character {control!r}; remove it")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ClassesError(f"{text} is in quotes; remove them")
    if text and not any(character.isalnum() for character in text):
        raise ClassesError(f"{text!r} has no letter or digit, which the model would need; write a word")
    return text


def _visible(text: str) -> str:
    """Remove invisible characters, except joiners between letters of scripts that need them."""
    kept = []
    for index, character in enumerate(text):
        if unicodedata.category(character) == "Cf":
            around = text[max(index - 1, 0) : index] + text[index + 1 : index + 2]
            if character not in "\u200c\u200d" or len(around) < 2 or around.isascii():
                continue
        kept.append(character)
    return "".join(kept)


def _make(entries: Sequence[tuple[str, ...]]) -> Vocabulary:
    """Build a vocabulary; check that each word belongs to a single class."""
    if not any(word for words in entries for word in words):
        raise ClassesError(f"no class is given; {EXAMPLE}")
    entries, background = _take_background(list(entries))
    vocabulary = Vocabulary(tuple(entries), background=background)
    seen: dict[str, str] = {}
    for words in vocabulary.classes:
        for word in words:
            if word.casefold() in seen:
                raise ClassesError(
                    f"{word!r} is in class {seen[word.casefold()]!r} and again in {words[0]!r}"
                )
            seen[word.casefold()] = words[0]
    return vocabulary


def _take_background(entries: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], bool]:
    """Remove a first class named background, as in labelme, COCO and VOC; reject one at any other place."""
    first = [words[0].casefold() if words else "" for words in entries]
    if first[0] == IGNORED_NAME:
        if len(first) == 1 or first[1] not in BACKGROUND_NAMES:
            raise ClassesError(
                f"the first class is {entries[0][0]!r}, and no '_background_' follows as in labelme's lists; "
                "leave it out (`ovsdino evaluate --reduce-zero-label`: label 0 means nothing)"
            )
        entries, first = entries[1:], first[1:]
    background = first[0] in BACKGROUND_NAMES
    if background and len(entries) == 1:
        raise ClassesError(f"the only class is {entries[0][0]!r}, which has no words; {EXAMPLE}")
    entries = entries[background:]
    for number, name in enumerate(first[background:], 1 + background):
        if name in (*BACKGROUND_NAMES, IGNORED_NAME):
            raise ClassesError(
                f"class {number} is {name!r}: only the first can be the background; put it first, or leave "
                "it out"
            )
    return entries, background
