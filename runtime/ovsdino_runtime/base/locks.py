"""Locks between processes, on open files; the system frees them when the holder dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def lock_handle(handle: int, *, wait: bool = False) -> None:
    """Lock an open file until it is closed or its process dies.

    On Windows nothing is locked: open files cannot be deleted or renamed there.

    Args:
        handle: file descriptor of the open file.
        wait: wait until another holder frees the lock, instead of raising.

    Raises:
        OSError: another process holds the lock, or the file system has no locks.
    """
    if os.name == "nt":  # pragma: no cover
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Let only one process or thread at a time enter the block; the others wait.

    Args:
        path: the lock file; created here and removed at the end. Its folder must exist.

    Raises:
        OSError: the file cannot be created.
    """
    handle = _open_locked(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _open_locked(path: Path) -> int:
    """Open and lock a file; try again if its former holder removed it in the meantime."""
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
