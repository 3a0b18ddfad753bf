"""Freed blocks go back to the system."""

import os
import platform
import subprocess
import sys

import pytest

HOLES = """
import os, sys
import numpy as np
from ovsdino_runtime.engines.allocator import return_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

print(return_large_blocks())
np.ones(24 << 17)  # 24 MiB, freed at once: from now on glibc by itself would keep smaller blocks in its heap
blocks = [np.ones(2 << 17) for _ in range(60)]  # 2 MiB each
full = resident()
del blocks[::2]
print(full - resident())
"""


def run(**environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", HOLES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_every_second_of_sixty_blocks_is_given_back() -> None:
    done, freed = run()
    assert done == "True"
    assert 58 < float(freed) < 62  # 30 blocks of 2 MiB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_users_own_limit_is_left_alone() -> None:
    done, freed = run(MALLOC_MMAP_THRESHOLD_=str(32 << 20))
    assert done == "False"
    assert float(freed) < 10  # glibc keeps the holes
