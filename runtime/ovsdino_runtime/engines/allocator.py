"""Memory that is given back: a run's large tensors must not stay in the process when they are freed."""

import ctypes
import os
import platform
from functools import cache

LARGE = 1 << 20  # [bytes]
M_MMAP_THRESHOLD = -3  # glibc, malloc.h
BY_HAND = "MALLOC_MMAP_THRESHOLD_"  # the environment variable with which a user decides otherwise


@cache
def return_large_blocks() -> bool:
    """Let glibc give freed blocks of a MiB and more back to the system at once; says whether it will.

    By itself it raises that limit to the largest block freed so far, 32 MiB at most, and then keeps what is
    freed in its heap, in pieces that photos of other sizes do not fit: memory grows for hundreds of photos.
    Other C libraries, and a process whose user has chosen a limit, are left as they are.
    """
    if platform.libc_ver()[0] != "glibc" or BY_HAND in os.environ:
        return False
    return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE))
