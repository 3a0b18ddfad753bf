"""Where results go: what cannot be written to is refused before any work is done."""

import tempfile
from pathlib import Path

from ovsdino_runtime.base.errors import OutputError


def check_out(out: Path) -> None:
    """Reject a folder that cannot be written to, or not be made; leave no trace.

    Raises:
        OutputError: it is a file, or closed to us.
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
