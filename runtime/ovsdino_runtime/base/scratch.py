"""Temporary folders; those of a killed process are removed by the next process.

A process holds a lock on a file in each of its folders. A folder whose lock is free is abandoned.
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
    """Create an empty folder that other users cannot open, and remove it at the end of the block.

    It lies among the system's temporary files (``TMPDIR``). Abandoned folders of this user with the same
    purpose are removed.

    Args:
        purpose: a word for the folder's name, such as "export".

    Raises:
        OSError: the folder cannot be created.
    """
    root, prefix = Path(tempfile.gettempdir()), f"ovsdino-{purpose}."
    sweep_folders(root, prefix)
    with locked_folder(root, prefix) as folder:
        (folder / FILES).mkdir()
        yield folder / FILES


@contextmanager
def locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Create a folder with a random name for the block, and lock the file ``lock`` in it.

    Raises:
        OSError: the folder cannot be created.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with suppress(OSError):  # the file system has no locks: the folder of a killed process stays
            lock_handle(handle)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def sweep_folders(parent: Path, prefix: str) -> None:
    """Remove this user's abandoned folders of `locked_folder`."""
    for folder in abandoned_folders(parent, prefix):
        shutil.rmtree(folder, ignore_errors=True)


def abandoned_folders(parent: Path, prefix: str) -> list[Path]:
    """Find this user's folders of `locked_folder` whose processes have died."""
    with suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(parent) if _is_abandoned(entry, prefix)]
    return []


def _is_abandoned(entry: "os.DirEntry[str]", prefix: str) -> bool:
    """Tell whether `locked_folder` made a folder that no process uses any more."""
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
