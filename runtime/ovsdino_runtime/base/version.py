"""The installed version."""

import sys
from functools import cache
from pathlib import Path

START, END = "ovsdino-", ".dist-info"  # of the folder that pip creates for an installed distribution


@cache
def version() -> str:
    """Return the installed version of ovsdino; "unknown" in a source tree that is not installed."""
    for folder in sys.path:  # importlib.metadata finds the same, but its import takes 15 ms
        for path in Path(folder).glob(f"{START}*{END}"):
            return path.name.removeprefix(START).removesuffix(END)
    from importlib import metadata

    try:
        return metadata.version("ovsdino")
    except metadata.PackageNotFoundError:
        return "unknown"
