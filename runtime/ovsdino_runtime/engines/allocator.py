"""Return freed memory to the system: large tensors of a run must not stay in the process."""

import ctypes
import os
import platform
from functools import cache

LARGE = 1 << 20  # [bytes]
M_MMAP_THRESHOLD = -3  # glibc, malloc.h
BY_HAND = "MALLOC_MMAP_THRESHOLD_"  # the environment variable with which a user decides otherwise


@cache
def return_large_blocks() -> bool:
    """Make glibc return freed blocks of 1 MiB or more to the system immediately; return whether it does.

    By default glibc raises that limit to the size of the largest freed block, up to 32 MiB, and keeps smaller
    blocks in its heap, fragmented so that photos of other sizes do not fit: memory grows for hundreds of
    photos. Other C libraries, and a limit that the user set, are left unchanged.
    """
    if platform.libc_ver()[0] != "glibc" or BY_HAND in os.environ:
        return False
    return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE))
