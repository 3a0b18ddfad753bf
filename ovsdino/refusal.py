"""What the user can mend, as one line on stderr and exit code 2, also where torch says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ovsdino_runtime.base import cli_errors as refusal
from ovsdino_runtime.base.errors import OvsdinoError


@contextmanager
def refusing(who: str, *, extra: str | Callable[[str | None], str], smaller: str) -> Iterator[None]:
    """Turn what the user can mend into one line; faults of the program pass.

    Args:
        who: what needs a package that is missing.
        extra: the extra that brings it, or tells which does by the package's name.
        smaller: what to do where memory is short.
    """
    with refusal.refusing(who, extra=extra):
        try:
            yield
        except (OvsdinoError, OSError, MemoryError, RuntimeError) as error:
            from ovsdino.torch_errors import explain

            if line := explain(error, smaller):
                raise refusal.RefusedError(line) from error
            raise
