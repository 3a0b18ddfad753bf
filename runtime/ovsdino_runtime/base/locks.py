"""Locks between processes: of open files, freed by the system when their holder dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def lock_handle(handle: int, *, wait: bool = False) -> None:
    """Lock an open file until it is closed or its process dies.

    On Windows nothing is locked, for nobody can delete or rename a file there that is open.

    Args:
        handle: of the open file.
        wait: for another holder.

    Raises:
        OSError: another process holds the lock, or the disk knows no locks.
    """
    if os.name == "nt":  # pragma: no cover
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Let only one process or thread at a time into the block; the others wait.

    Args:
        path: the lock's file: made here, and removed at the end. Its folder must exist.

    Raises:
        OSError: it cannot be made.
    """
    handle = _open_locked(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _open_locked(path: Path) -> int:
    """Open and lock a file; once more where its former holder has removed it in the meantime."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            with suppress(OSError):  # the disk knows no locks
                lock_handle(handle, wait=True)
            if _is_same(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
