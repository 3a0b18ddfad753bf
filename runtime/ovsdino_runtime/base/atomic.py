"""Write files in one step: after a crash there is the old file or the new one, never half of one."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.locks import lock_handle

PARTIAL = re.compile(r"\..*\.[0-9a-f]{16}\.partial(\.\w+)?")
STALE_S = 1.0  # [s] a file that is younger may belong to a process that has not locked it yet
MAX_NAME = 60  # characters of the final name in the temporary one
_swept: set[Path] = set()  # folders whose leftovers this process has removed


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step; see `partial_file`."""
    with partial_file(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step, line ends unchanged; see `partial_file`."""
    write_bytes(path, text.encode())


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write; it replaces ``path`` when the block ends without an error.

    The temporary file lies beside ``path`` under a random name. It is always created new, so that a link
    which somebody planted there is not followed, and it is flushed to the disk before it is renamed.
    Temporary files of killed processes in the same folder are removed.

    Args:
        path: the file to create or replace. Its folder must exist. A symbolic link is replaced, not followed.

    Raises:
        OSError: the file cannot be created, flushed or renamed; no temporary file remains.
    """
    sweep(path.parent)
    partial = path.with_name(f".{path.name[:MAX_NAME]}.{secrets.token_hex(8)}.partial{path.suffix[:20]}")
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with suppress(OSError):  # the disk knows no locks: leftovers on it stay
            lock_handle(handle)
        yield partial
        if os.name == "nt":  # pragma: no cover - an open file cannot be renamed there
            os.close(handle)
        replace_file(partial, path)
    finally:
        with suppress(OSError):
            os.close(handle)
        with suppress(OSError):
            partial.unlink()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file in one step, and create its folder.

    Args:
        path: the file to create or replace.
        write: writes the content to the open file that it receives.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as partial, partial.open("wb") as file:
            write(file)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def replace_file(partial: Path, path: Path) -> None:
    """Flush a finished temporary file to the disk and rename it to its final name."""
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def sweep(folder: Path) -> None:
    """Remove temporary files of `partial_file` whose writers died; once per folder and process."""
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):
        for entry in os.scandir(folder):
            if PARTIAL.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_stale(Path(entry.path))


def _remove_stale(partial: Path) -> None:
    with suppress(OSError):  # another process removed it, or still writes it
        if time.time() - partial.stat().st_mtime < STALE_S:
            return
        handle = os.open(partial, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            lock_handle(handle)
            partial.unlink()
        finally:
            os.close(handle)
