"""The short form of ``python -m tests.fuzz``, for continuous integration."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="hangs are found by SIGALRM")
def test_a_few_bad_inputs_of_each_kind():
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "60", "--seed", "3", "--seconds", "20"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = partial(subprocess.run, cwd=ROOT, env=environment, capture_output=True, text=True)
    done = run(command, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong: 0" in done.stdout
