"""Report errors that the user can fix: one line on stderr and exit code 2, in every command."""

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
    """Turn errors that the user can fix into a `UserError`; other exceptions pass unchanged.

    Args:
        who: subject of the message about a missing package, such as the command's name.
        extra: the extra that installs it, or a function from the package's name to the extra; None where
            every package is a plain dependency.
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
            raise  # the reader of our output closed the pipe: click exits quietly
        raise UserError(" ".join(str(error).split())) from error
