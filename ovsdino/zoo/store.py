"""Locations of downloaded weights and their bundles in the user's cache."""

from __future__ import annotations

from pathlib import Path

from ovsdino.zoo.catalogue import ENTRIES, CatalogueEntry
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer


class FetchError(OvsdinoError):
    """A file cannot be downloaded; the message holds file, address, target folder and reason."""


def find_entry(name: str) -> CatalogueEntry:
    """Return the catalogue entry of a name.

    Raises:
        FetchError: there is no such entry.
    """
    if name not in ENTRIES:
        raise FetchError(f"unknown name {name!r}; known: {', '.join(ENTRIES)}")
    return ENTRIES[name]


def weights_folder(name: str) -> Path:
    """Return the folder for the files of an entry; it may not exist yet."""
    return cache_dir() / "weights" / name


def bundle_path(name: str) -> Path:
    """Return the path at which the runtime looks for the bundle of a model."""
    return cache_dir() / "models" / f"{name}.ovs"


def missing_files(name: str) -> list[str]:
    """List the missing files of an entry; existing files are complete."""
    folder = weights_folder(name)
    return [file.file for file in find_entry(name).files if not (folder / file.file).is_file()]


def fetched(name: str) -> Path:
    """Return the folder with all files of an entry.

    Raises:
        FetchError: a file is missing (the message says how to get it), or another user can change it.
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
    """Format a size, such as "346 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def state_of(name: str) -> str:
    """Return the state of an entry: "bundle", "fetched" or "-"."""
    if bundle_path(name).is_dir():
        return "bundle"
    return "-" if missing_files(name) else "fetched"
