"""Read from a path or an open file; the position of an open file stays unchanged."""

from pathlib import Path
from typing import BinaryIO

LENGTH = 32  # [bytes] enough to recognise every format that we read


def read_start(file: Path | BinaryIO) -> bytes:
    """Read the first bytes of a file."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(LENGTH)
    place = file.tell()
    try:
        return file.read(LENGTH)
    finally:
        file.seek(place)


def read_all(file: Path | BinaryIO) -> bytes:
    """Read a whole file from its beginning."""
    if isinstance(file, Path):
        return file.read_bytes()
    file.seek(0)
    return file.read()
