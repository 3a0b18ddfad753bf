"""Check the folder of results before any work starts."""

import tempfile
from pathlib import Path

from ovsdino_runtime.base.errors import OutputError


def check_out(out: Path) -> None:
    """Check that a folder can be created and written to, without leaving anything in it.

    Raises:
        OutputError: the path is a file, or the folder is not writable.
    """
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"{out}: {existing} is not a directory; choose another --out")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"{out}: cannot be written to: {error.strerror}; choose another --out") from error
