"""Errors that the user can fix, as one line: those of the project, of the system, and of torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ovsdino_runtime.base import cli_errors
from ovsdino_runtime.base.errors import OvsdinoError

# What torch says where memory is short on a CPU; it has no class of its own for it.
SHORT = re.compile(r"DefaultCPUAllocator|not enough memory|[Cc]annot allocate memory")
KILLED = re.compile(r"DataLoader worker .*(killed|exited unexpectedly|bus error)", re.IGNORECASE | re.DOTALL)


def explain(error: Exception, smaller: str) -> str | None:
    """Describe an error in one line: ``smaller`` where memory is short, None for an error of the program."""
    import torch

    text = str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the GPU has too little memory; {smaller}"
    if KILLED.search(text):
        return f"a process that loads photos was killed, most likely for lack of memory; {smaller}"
    if isinstance(error, MemoryError) or SHORT.search(text):
        return f"too little memory; {smaller}"
    if isinstance(error, OvsdinoError):
        # A worker's error comes with its traceback in front.
        last = text.strip().splitlines()[-1] if "Traceback" in text else " ".join(text.split())
        return last.split(": ", 1)[1] if "Traceback" in text else last
    return " ".join(text.split()) if isinstance(error, OSError) else None


@contextmanager
def user_errors(who: str, *, extra: str | Callable[[str | None], str], smaller: str) -> Iterator[None]:
    """Turn errors that the user can fix into one line and exit code 2, also those of torch.

    Errors of the program pass unchanged.

    Args:
        who: what needs a package that is missing.
        extra: the extra that brings it, or tells which does by the package's name.
        smaller: what to do where memory is short.
    """
    with cli_errors.user_errors(who, extra=extra):
        try:
            yield
        except (OvsdinoError, OSError, MemoryError, RuntimeError) as error:
            if line := explain(error, smaller):
                raise cli_errors.UserError(line) from error
            raise
