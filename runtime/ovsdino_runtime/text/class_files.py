"""Read a file of class names: one class per line, or a JSON list. Errors name other known formats.

The file is text in UTF-8, or in UTF-16 with or without a byte-order mark, with line ends of any system. A
line is one class; ``|`` separates its synonyms; a comma is part of the name. Empty lines are skipped, and so
are comments: ``#`` at the beginning of a line or after a space.
"""

import codecs
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.base.regular_file import regular_file

Listed = Sequence[object] | Mapping[str, object]  # what `class_lists.read_listed` takes
CURE = "write one class a line, with '|' between synonyms"
MAX_BYTES = 16_000_000  # of a list; 65,535 names are below 2 MB
MAX_SHOWN = 6  # names that a message repeats
HEADERS = {"category", "class", "class_name", "classes", "id", "index", "label", "label_name", "labels"}
HEADERS |= {"name", "names", "b", "g", "r"}
log = logging.getLogger(__name__)


def read_list(path: str | Path) -> Listed:
    """Read the classes of a file, without splitting them into words.

    Raises:
        ClassesError: the file cannot be read, is not text, or has another format.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ClassesError(f"{path}: a table, expected a list of classes; {CURE}, in a .txt file")
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        return parse_json(text, str(path))
    lines = text_lines(text)
    if lines and all(re.match(r"-\s+\S", line) for line in lines):  # YAML's plainest list
        return [_unquote(line[1:].strip()) for line in lines]
    _refuse_formats(lines, path)
    if commas := next((line for line in lines if "," in line), None):
        if len(lines) == 1:
            raise ClassesError(f"{path}: names a single class, {commas!r}; {CURE}")
        log.warning("%s: a comma is part of a name in a file: %r; %s", path, commas, CURE)
    return lines


def read_text(path: Path) -> str:
    """Decode a text file in UTF-8 or UTF-16.

    Raises:
        ClassesError: the file cannot be read, or has another encoding.
    """
    try:
        if regular_file(path).stat().st_size > MAX_BYTES:
            raise ClassesError(
                f"{path}: {path.stat().st_size / 1e6:.0f} MB, expected a list of names; {CURE}"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise ClassesError(f"{path}: cannot be read: {reason}") from error
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise ClassesError(
            f"{path}: cannot be read: not a text file in UTF-8 or UTF-16; save it in UTF-8"
        ) from error
    if "\0" in text:
        raise ClassesError(f"{path}: cannot be read: not a text file in UTF-8 or UTF-16; {CURE}")
    return text


def text_lines(text: str) -> list[str]:
    """Split text into its lines without comments, empty lines and a byte-order mark."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.removeprefix("\ufeff").splitlines())
    return [line for line in lines if line]


def parse_json(text: str, where: str) -> Listed:
    """Read a JSON list of names, or an object of names and synonyms.

    Args:
        text: the JSON.
        where: the file or argument, for messages.

    Raises:
        ClassesError: the text is not JSON, or has another format, which the message names.
    """
    try:
        record = strict_json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ClassesError(
            f'{where}: begins like JSON and is none ({error}); write ["cat", "car"], or {CURE[6:]}'
        ) from error
    if isinstance(record, dict):
        return _check_object(record, where)
    if not isinstance(record, list):
        raise ClassesError(f"{where}: expected a JSON list of names, got {json.dumps(record)[:40]}")
    if record and all(isinstance(item, dict) for item in record):
        names = [str(item["name"]) for item in record if "name" in item]
        kind = "CVAT's labels" if "attributes" in record[0] else "Detectron's or COCO's categories"
        raise ClassesError(f"{where}: {kind if names else 'a list of objects'}, {_instead(names)}")
    return record


def _check_object(record: dict[str, object], where: str) -> Mapping[str, object]:
    """Return an object of names and synonyms; reject other formats by name."""
    if "shapes" in record and isinstance(record["shapes"], list):
        names = [str(shape.get("label")) for shape in record["shapes"] if isinstance(shape, dict)]
        raise ClassesError(f"{where}: a labelme annotation, {_instead(names)}")
    if isinstance(record.get("categories"), list):
        items = record["categories"]
        names = [str(item.get("name")) for item in items if isinstance(item, dict)]  # type: ignore[attr-defined]
        raise ClassesError(f"{where}: a COCO data set, {_instead(names)}")
    for key in ("thing_classes", "stuff_classes", "names", "classes", "labels", "id2label"):
        if isinstance(value := record.get(key), list | dict):
            names = [str(name) for name in (value.values() if isinstance(value, dict) else value)]
            raise ClassesError(f"{where}: metadata with {key!r}, {_instead(names)}")
    if record and all(key.isdecimal() for key in record):
        raise ClassesError(
            f"{where}: maps numbers to names, {_instead([str(name) for name in record.values()])}"
        )
    if record and all(isinstance(value, int | float) for value in record.values()):
        raise ClassesError(f"{where}: maps names to numbers, {_instead(record)}")
    return record


def _refuse_formats(lines: Sequence[str], path: Path) -> None:
    """Reject tables, numbered lists, CVAT's label map and YAML, whose lines hold more than a name."""
    if lines and all(re.fullmatch(r"[^:]+:[\d, ]*:[^:]*:[^:]*", line) for line in lines):
        names = [line.partition(":")[0] for line in lines]
        raise ClassesError(f"{path}: CVAT's label map, {_instead(names)}")
    header = [cell.strip(" \"'").casefold() for cell in re.split(r"[,;\t]", lines[0])] if lines else []
    table = len(header) > 1 and HEADERS.issuperset(header)
    if table or (len(lines) > 1 and len(header) == 1 and header[0] in HEADERS - {"b", "g", "r"}):
        raise ClassesError(f"{path}: a table with the header {lines[0]!r}; {CURE}, without a header")
    numbers = [match for line in lines if (match := re.match(r"(\d+)\s*[\s,:.)]\s*(\S.*)", line))]
    if len(lines) > 1 and len(numbers) == len(lines):
        steps = {int(after[1]) - int(before[1]) for before, after in pairwise(numbers)}
        if steps == {1}:
            names = [match[2] for match in numbers]
            raise ClassesError(f"{path}: the lines are numbered, {_instead(names)}")
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            raise ClassesError(f"{path}: name {number} holds a tab, as a table has; {CURE}")
        if path.suffix.lower() in (".yaml", ".yml") or re.match(r"[\w-]+:(\s|$)", line):
            raise ClassesError(f"{path}: YAML with more than a list of names ({line[:40]!r}); {CURE}")


def _instead(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    shown = ", ".join(listed[:MAX_SHOWN]) + (", ..." if len(listed) > MAX_SHOWN else "")
    return f"not a list of classes; {CURE}: {shown}" if listed else f"not a list of classes; {CURE}"


def _unquote(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = data[:200]
    if len(head) >= 4 and head[1::2].count(0) > len(head) // 3:
        return "utf-16-le"
    if len(head) >= 4 and head[::2].count(0) > len(head) // 3:
        return "utf-16-be"
    return "utf-8-sig"
