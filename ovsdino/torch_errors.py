"""Print errors that the user can fix in one line: errors of this project, the system, and torch."""

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
    """Describe an error in one line, with ``smaller`` as advice on memory; None for a bug of the program."""
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
    """Turn errors that the user can fix, including those of torch, into one line and exit code 2.

    Bugs of the program pass unchanged.

    Args:
        who: name of the command, for a message about a missing package.
        extra: the extra that installs the package, or a function from package name to extra.
        smaller: advice for errors of memory.
    """
    with cli_errors.user_errors(who, extra=extra):
        try:
            yield
        except (OvsdinoError, OSError, MemoryError, RuntimeError) as error:
            if line := explain(error, smaller):
                raise cli_errors.UserError(line) from error
            raise
