"""The command that installs missing extras, for all messages."""

# Until the name is on a package index, extras are installed from a clone of the repository.
SOURCE = "."


def install_command(extras: str = "") -> str:
    """Return the command that installs the project with extras, such as "cpu" or "export,cpu"."""
    return f"pip install '{SOURCE}[{extras}]'" if extras else f"pip install '{SOURCE}'"
