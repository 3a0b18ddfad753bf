"""Temporary folders that do not outlive a killed process for long: the next one removes them.

The process that made a folder holds a lock on a file in it. A folder whose lock is free belongs to nobody.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ovsdino_runtime.base.locks import lock_handle

LOCK = "lock"
FILES = "files"
STALE_S = 1.0  # [s] a younger folder may not be locked yet


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Make an empty folder, closed to other users, for the time of the block.

    It lies among the system's temporary files (``TMPDIR``). Folders of the same purpose that killed processes
    of this user left there are removed.

    Args:
        purpose: one word for the folder's name, such as "export".

    Raises:
        OSError: it cannot be made.
    """
    root, prefix = Path(tempfile.gettempdir()), f"ovsdino-{purpose}."
    sweep_folders(root, prefix)
    with locked_folder(root, prefix) as folder:
        (folder / FILES).mkdir()
        yield folder / FILES


@contextmanager
def locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder with an unpredictable name for the time of the block; the file ``lock`` in it is locked.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with suppress(OSError):  # the disk knows no locks: a killed process's folder stays
            lock_handle(handle)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def sweep_folders(parent: Path, prefix: str) -> None:
    """Remove this user's folders of `locked_folder` whose processes have died."""
    for folder in abandoned_folders(parent, prefix):
        shutil.rmtree(folder, ignore_errors=True)


def abandoned_folders(parent: Path, prefix: str) -> list[Path]:
    """Find this user's folders of `locked_folder` whose processes have died."""
    with suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(parent) if _is_abandoned(entry, prefix)]
    return []


def _is_abandoned(entry: "os.DirEntry[str]", prefix: str) -> bool:
    """Tell whether a folder is of `locked_folder` and nobody's."""
    random = entry.name.removeprefix(prefix)
    if not entry.name.startswith(prefix) or len(random) != 8 or not entry.is_dir(follow_symlinks=False):
        return False
    folder = Path(entry.path)
    try:
        state = entry.stat(follow_symlinks=False)
        if time.time() - state.st_mtime < STALE_S or state.st_uid != getattr(os, "geteuid", lambda: 0)():
            return False
        handle = os.open(folder / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:  # killed before it was locked, or while it was removed
        return not {file.name for file in folder.iterdir()} - {FILES, "new", "old"}
    except OSError:
        return False
    try:
        lock_handle(handle)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
