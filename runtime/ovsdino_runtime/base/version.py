"""The installed version."""


def version() -> str:
    """Return the installed version of ovsdino; "unknown" in a source tree that is not installed."""
    from importlib import metadata  # the import takes 15 ms; done here, it does not delay the first labels

    try:
        return metadata.version("ovsdino")
    except metadata.PackageNotFoundError:
        return "unknown"
