"""What the user can mend, as one line on stderr and exit code 2: every command's way to refuse."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.install import install_command


class UserError(click.ClickException):
    """Bad input, a missing package, or a file that cannot be read or written."""

    exit_code = 2


@contextmanager
def user_errors(
    who: str = "this", *, extra: str | Callable[[str | None], str] | None = None
) -> Iterator[None]:
    """Turn what the user can mend into one line; faults of the program pass.

    Args:
        who: what needs a package that is missing.
        extra: the extra that brings it, or tells which does by the package's name; None where none is needed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        wanted = extra if isinstance(extra, str) else extra(error.name)
        raise UserError(
            f"{who} needs {error.name}, which is not installed: {install_command(wanted)}"
        ) from error
    except MemoryError as error:
        raise UserError(
            "too little memory: scale the photos down, run fewer at once, or close other programs"
        ) from error
    except (OvsdinoError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # who read our output has gone: click ends quietly
        raise UserError(" ".join(str(error).split())) from error
