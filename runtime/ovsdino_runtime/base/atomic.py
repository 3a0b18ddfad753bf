"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ovsdino_runtime.base.errors import OutputError


def replace_file(partial: Path, path: Path) -> None:
    """Give a finished file its name; after a kill or a power cut there is the old file or the new one."""
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name first; its folder is made.

    Args:
        path: the file; one that is there is replaced.
        write: given the open file.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone already, or its folder never was
            temporary.unlink()
