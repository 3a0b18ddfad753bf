"""The runtime's cache folder."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the user's cache directory.

    It is ``$OVSDINO_CACHE``, else ``$XDG_CACHE_HOME/ovsdino``, else ``~/.cache/ovsdino``. It may not exist
    yet. Its content can be deleted at any time.
    """
    if own := os.environ.get("OVSDINO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovsdino"
