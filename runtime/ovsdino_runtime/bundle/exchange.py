"""Replace a folder in one step, and clean up after writers that were killed.

A writer works in ``.NAME.XXXXXXXX`` beside ``NAME`` and holds a lock in it. The next writer of ``NAME``, or a
reader that does not find ``NAME``, removes such folders of dead writers and restores what one had moved away.
"""

import ctypes
import os
import shutil
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from ovsdino_runtime.base.scratch import abandoned_folders, locked_folder

OLD = "old"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux' renameat2


def staging_folder(path: Path) -> AbstractContextManager[Path]:
    """Create a folder beside ``path`` for the duration of the block, locked against clean-up by others.

    Raises:
        OSError: the folder cannot be created.
    """
    return locked_folder(path.parent, f".{path.name}.")


def exchange(fresh: Path, path: Path, *, old: Path) -> None:
    """Rename ``fresh`` to ``path``; an existing folder ends up at ``fresh`` or ``old``.

    On Linux the two are exchanged in one step. On other systems, and on file systems that do not support it,
    the old folder is moved away first; `sweep_staging` restores it if this process dies in between.

    Raises:
        OSError: the folder cannot be renamed; the old one is unchanged.
    """
    if not path.exists():
        fresh.replace(path)
    elif not _exchange_at_once(fresh, path):
        path.replace(old)
        try:
            fresh.replace(path)
        except OSError:
            old.replace(path)
            raise


def sweep_staging(path: Path) -> None:
    """Remove folders of killed writers of ``path``; restore what one of them had moved away."""
    for temporary in abandoned_folders(path.parent, f".{path.name}."):
        with suppress(OSError):  # another process was faster
            if (temporary / OLD).is_dir() and not path.exists():
                (temporary / OLD).replace(path)
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange_at_once(first: Path, second: Path) -> bool:
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28, musl 1.2.4
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)
