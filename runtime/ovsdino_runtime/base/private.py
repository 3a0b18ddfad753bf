"""Keep caches private: a cached file that another user can write is not trusted."""

import os
import stat
from pathlib import Path

from ovsdino_runtime.base.paths import cache_dir


def make_private(folder: Path) -> None:
    """Create a cache folder that other users cannot open; an existing folder stays unchanged.

    Raises:
        OSError: the folder cannot be created.
    """
    if folder != cache_dir() and folder.is_relative_to(cache_dir()):
        make_private(folder.parent)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def find_foreign_writer(path: Path) -> str | None:
    """Find out whether another user can write a cached file or a folder between it and the cache's root.

    Content of a folder that is closed to other users is safe, whatever its own permissions.

    Args:
        path: a file or folder in the cache; paths outside the cache are not checked.

    Returns:
        A phrase such as "/cache/engines can be written by other users; run: chmod go-w …"; None if safe.
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
