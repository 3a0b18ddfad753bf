"""What stops a run through no fault of the program, said in one line."""

from __future__ import annotations

import re

import torch

from ovsdino_runtime.base.errors import OvsdinoError

# What torch says where memory is short on a CPU; it has no class of its own for it.
SHORT = re.compile(r"DefaultCPUAllocator|not enough memory|[Cc]annot allocate memory")
KILLED = re.compile(r"DataLoader worker .*(killed|exited unexpectedly|bus error)", re.IGNORECASE | re.DOTALL)


def explain(error: Exception, smaller: str) -> str | None:
    """Say in one line what to do, ``smaller`` where memory is short; None for a fault of the program."""
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
