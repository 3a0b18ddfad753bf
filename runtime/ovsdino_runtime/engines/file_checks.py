"""A record of the size and checksum of files, beside them: tells whether they are still as written."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.atomic import write_text

RECORD = "record.json"
BLOCK = 1 << 20  # [bytes] read at once


@dataclass(frozen=True)
class FileCheck:
    """Size and checksum of a file."""

    size: int  # [bytes]
    crc32: int


@dataclass(frozen=True)
class FilesRecord:
    """What the files of a folder must be."""

    files: dict[str, FileCheck]


def write_record(folder: Path, names: Iterable[str]) -> None:
    """Record the files of these names that there are.

    Raises:
        OSError: a file cannot be read, or the record cannot be written.
    """
    write_text(folder / RECORD, strict_json.dumps(FilesRecord(_check_files(folder, names))))


def is_as_recorded(folder: Path, names: Iterable[str]) -> bool:
    """Tell whether the files of these names are those of the record.

    Raises:
        OSError: a file or the record cannot be read.
        ValueError: the record is damaged.
    """
    text = (folder / RECORD).read_text(encoding="utf-8")
    return strict_json.parse(FilesRecord, strict_json.loads(text)).files == _check_files(folder, names)


def _check_files(folder: Path, names: Iterable[str]) -> dict[str, FileCheck]:
    return {name: _check_file(folder / name) for name in names if (folder / name).is_file()}


def _check_file(path: Path) -> FileCheck:
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return FileCheck(size, crc32)
