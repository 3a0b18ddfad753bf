"""Check that a path is a regular file before it is opened: opening a named pipe waits for its other end."""

import errno
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(OSError):
    """A path is a named pipe, a socket or a device."""

    def __str__(self) -> str:
        """Leave out the number that an OSError begins with."""
        return f"{self.filename}: {self.strerror}"


def regular_file(path: Path) -> Path:
    """Return the path of a regular file, or of a link to one.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        NotRegularError: it is a named pipe, a socket or a device; ``strerror`` says which.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind == stat.S_IFREG:
        return path
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    what = KINDS.get(kind, "no regular file")
    raise NotRegularError(errno.EINVAL, f"{what}, expected a regular file", str(path))
