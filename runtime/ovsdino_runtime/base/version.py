"""The installed version."""

from importlib import metadata


def version() -> str:
    """Return the installed version of ovsdino; "unknown" in a source tree that is not installed."""
    try:
        return metadata.version("ovsdino")
    except metadata.PackageNotFoundError:
        return "unknown"
