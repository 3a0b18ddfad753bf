"""The installed version."""


def version() -> str:
    """Return the installed version of ovsdino; "unknown" in a source tree that is not installed."""
    from importlib import metadata  # takes 15 ms of each start, and is needed after the first labels

    try:
        return metadata.version("ovsdino")
    except metadata.PackageNotFoundError:
        return "unknown"
