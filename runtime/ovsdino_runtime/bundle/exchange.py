"""Replace a directory in one step, and clear up after writers that were killed.

A writer works in ``.NAME.XXXXXXXX`` beside ``NAME`` and holds a lock in it. The next writer of ``NAME``, and
a reader that does not find it, removes such directories of dead writers and puts back what one moved away.
"""

import ctypes
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "lock"
OLD = "old"
STALE_S = 1.0  # [s] a younger directory may not be locked yet
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux' renameat2


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """Make a directory beside ``path`` for the time of the block, locked so that nobody clears it away.

    Raises:
        OSError: it cannot be made.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    handle = os.open(temporary / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with suppress(OSError):  # the disk knows no locks
            _lock(handle)
        yield temporary
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(fresh: Path, path: Path, *, old: Path) -> None:
    """Give ``fresh`` the name ``path``; what was there goes to ``fresh`` or ``old``.

    On Linux both change places in one step. Elsewhere, and on disks that cannot, the old one is moved away
    first; `sweep_staging` puts it back if this process dies in between.

    Raises:
        OSError: it could not be renamed; the old one is where it was.
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
    """Remove directories of killed writers of ``path``; put back what one of them had taken away."""
    pattern = f".{path.name}.????????"
    with suppress(OSError):
        for temporary in path.parent.glob(pattern):
            if temporary.is_symlink() or not temporary.is_dir() or not _is_abandoned(temporary):
                continue
            if (temporary / OLD).is_dir() and not path.exists():
                (temporary / OLD).replace(path)
            shutil.rmtree(temporary, ignore_errors=True)


def _is_abandoned(temporary: Path) -> bool:
    try:
        if time.time() - temporary.stat().st_mtime < STALE_S:
            return False
        handle = os.open(temporary / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return (temporary / "new").is_dir() or (temporary / OLD).is_dir()  # of an older version
    except OSError:
        return False
    try:
        _lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _exchange_at_once(first: Path, second: Path) -> bool:
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28, musl 1.2.4
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)


def _lock(handle: int) -> None:
    if os.name == "nt":  # pragma: no cover - Windows lets nobody remove a directory with an open file
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
