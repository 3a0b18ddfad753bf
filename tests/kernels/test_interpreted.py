"""Run tests/kernels/interpreted*.py in a child process, with Triton's interpreter in the place of a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_kernels_compute_what_their_references_do():
    pytest.importorskip("triton")
    cases = [str(path) for path in sorted(Path(__file__).parent.glob("interpreted*.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *cases]
    run(command, os.environ | {"TRITON_INTERPRET": "1"})


@pytest.mark.gpu
def test_the_kernels_around_the_engine_on_a_gpu():
    cases = Path(__file__).with_name("interpreted_device.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(cases)]
    run(command, os.environ | {"OVSDINO_KERNELS_ON": "cuda"})


def run(command, environment):
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert " passed" in done.stdout
