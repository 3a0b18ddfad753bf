"""Where fetched weights and the bundles made of them lie: in the user's cache."""

from __future__ import annotations

from pathlib import Path

from ovsdino.zoo.catalogue import ENTRIES, Entry
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer


class FetchError(OvsdinoError):
    """A file cannot be fetched; the message has the file, its address, where it belongs, and the reason."""


def find_entry(name: str) -> Entry:
    """Look a name up.

    Raises:
        FetchError: there is none of that name.
    """
    if name not in ENTRIES:
        raise FetchError(f"unknown name {name!r}; known: {', '.join(ENTRIES)}")
    return ENTRIES[name]


def weights_folder(name: str) -> Path:
    """Return where a name's files belong; the folder may not be there yet."""
    return cache_dir() / "weights" / name


def bundle_path(name: str) -> Path:
    """Return where the runtime looks for a model's bundle."""
    return cache_dir() / "models" / f"{name}.ovs"


def missing_files(name: str) -> list[str]:
    """List the files of an entry that its folder lacks; files in it are complete."""
    folder = weights_folder(name)
    return [file.file for file in find_entry(name).files if not (folder / file.file).is_file()]


def fetched(name: str) -> Path:
    """Return the folder with all of a name's files.

    Raises:
        FetchError: one is missing; the message says how to get it. Or another user of this machine can
            change one.
    """
    if missing := missing_files(name):
        raise FetchError(
            f"{name}: {missing[0]} is not in {weights_folder(name)}; get it with "
            f"`ovsdino models fetch {name}`, or give official files with --checkpoint"
        )
    folder = weights_folder(name)
    for file in find_entry(name).files:
        if writer := find_foreign_writer(folder / file.file):
            raise FetchError(f"{name}: not used, for it may not be what was fetched: {writer}")
    return folder


def in_words(size: int) -> str:
    """Write a size in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def state_of(name: str) -> str:
    """Return an entry's state in one word: "bundle", "fetched" or "-"."""
    if bundle_path(name).is_dir():
        return "bundle"
    return "-" if missing_files(name) else "fetched"
