"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(partial: Path, path: Path) -> None:
    """Give a finished file its name; after a kill or a power cut there is the old file or the new one."""
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    partial.replace(path)
