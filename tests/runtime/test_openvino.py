"""OpenVINO's tests, in a process of their own: two whole runs of the suite lost the process that ran them.

In both, it ended without a word while a later test waited for a child process; no smaller set of tests does
that. A deadlock of two threads' first accesses to tensors was found and removed since (see
`import_openvino`); whether it was the cause is not known. Whoever changes the engine runs them directly:
``pytest -n 0 tests/runtime/openvino_cases.py``.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests/runtime/openvino_cases.py"
CHILD = """
import os, subprocess, sys
import numpy as np
from ovsdino_runtime.segmenter import Segmenter
segmenter = Segmenter.load("nano", engine="openvino", threads=1)
photo = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
before = segmenter(photo, "red, green").labels
for _ in range(8):
    subprocess.run([sys.executable, "-c", ""], check=True, capture_output=True)
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
assert (segmenter(photo, "red, green").labels == before).all()
segmenter.close()
"""
pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


def run(*arguments: str, cache: Path) -> None:
    paths = [str(ROOT), *(str(ROOT / name) for name in ("export", "runtime", "benchmarks"))]
    environment = {"PYTHONPATH": ":".join(paths), "OVSDINO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"


def test_all_cases(tmp_path):
    run("-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(CASES), cache=tmp_path)


def test_a_process_with_openvino_starts_others_and_ends_well(tmp_path):
    run("-W", "ignore", "-c", CHILD, cache=tmp_path)
