"""Look into a file, or into one that is open and stays where it was."""

from pathlib import Path
from typing import BinaryIO

LENGTH = 32  # [bytes] in which every format that we know says what it is


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
    """Read a file from its beginning."""
    if isinstance(file, Path):
        return file.read_bytes()
    file.seek(0)
    return file.read()
