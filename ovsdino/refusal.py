"""What the user can mend, as one line on stderr and exit code 2. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ovsdino_runtime.errors import OvsdinoError


class RefusedError(click.ClickException):
    """Bad input, a missing package or too little memory."""

    exit_code = 2


@contextmanager
def refusing(who: str, *, extra: Callable[[str | None], str], smaller: str) -> Iterator[None]:
    """Turn what the user can mend into one line; faults of the program pass.

    Args:
        who: what needs a package that is missing.
        extra: the extra that brings a package.
        smaller: what to do where memory is short.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise RefusedError(
            f"{who} needs {error.name}, which is not installed: pip install 'ovsdino[{extra(error.name)}]'"
        ) from error
    except (OvsdinoError, OSError, MemoryError, RuntimeError) as error:
        from ovsdino.trouble import explain

        line = explain(error, smaller)
        if line is None:
            raise
        raise RefusedError(line) from error
