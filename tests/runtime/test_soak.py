"""A short soak with the tiny model, in a process of its own; the long one is a command, see soak.py."""

import subprocess
import sys
from pathlib import Path

import pytest

PHOTOS = 240


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the soak reads Linux's /proc")
def test_nothing_grows_with_the_number_of_photos(shared_bundle):
    script = Path(__file__).with_name("soak.py")
    arguments = ["--photos", PHOTOS, "--model", shared_bundle.path, "--threads", 1]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(line[0]) for line in lines] == list(range(PHOTOS // 20, PHOTOS + 1, PHOTOS // 20))
    memory, threads, files = ([float(line[i]) for line in lines] for i in (2, 4, 6))
    assert max(memory[10:]) - max(memory[5:10]) < 15  # [MB] a photo has up to 1.5, its cosines 2
    assert max(threads[5:]) <= max(threads[:5])
    assert max(files[5:]) <= max(files[:5])
