"""Keep caches private: files of a cache that another user can write are not trusted."""

import os
import stat
from pathlib import Path

from ovsdino_runtime.base.paths import cache_dir


def make_private(folder: Path) -> None:
    """Make a folder of the cache, closed to other users; one that exists stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    if folder != cache_dir() and folder.is_relative_to(cache_dir()):
        make_private(folder.parent)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def find_foreign_writer(path: Path) -> str | None:
    """Say who else can write a file of the cache, or one of its folders up to the cache's own.

    What lies in a folder that is closed to other users cannot be written by them, whatever its own bits.

    Args:
        path: a file or folder in the cache; of others nothing is said.

    Returns:
        A phrase such as "/cache/engines can be written by other users; chmod go-w it", or None.
    """
    root = cache_dir()
    if os.name == "nt" or not path.is_relative_to(root):  # on Windows the user's profile is closed
        return None
    folders = [folder for folder in path.parents if folder == root or folder.is_relative_to(root)]
    closed = False
    for place in (*reversed(folders), path):
        try:
            state = place.stat()
        except OSError:
            continue
        if state.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user (uid {state.st_uid}); remove it, or set OVSDINO_CACHE"
        if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not closed:
            return f"{place} can be written by other users; run: chmod go-w {place}"
        closed = closed or not state.st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    return None
