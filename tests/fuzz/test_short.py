"""The short form of ``python -m tests.fuzz``, for continuous integration."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="hangs are found by SIGALRM")
def test_a_few_bad_inputs_of_each_kind():
    assert "wrong: 0" in run("tests.fuzz", "--cases", "60", "--seed", "3", "--seconds", "20")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_few_kills_of_the_two_cheapest_programs():
    said = run("tests.fuzz.kills", "--kills", "4", "--seed", "3", "--only", "packs", "--only", "prefetch")
    assert "; wrong: 0" in said


def run(module: str, *options: str) -> str:
    """Run a program of this folder; return what it printed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
