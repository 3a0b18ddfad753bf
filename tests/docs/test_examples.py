"""The notebook and the scripts of ``examples/`` run as they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SOURCES = os.pathsep.join(str(ROOT / folder) for folder in (".", "runtime"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", SOURCES)
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path))
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # as it is committed
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    text = "".join(output.get("text", "") for output in outputs)
    assert "cat: " in text
    assert "'cat'" in outputs[-1]["data"]["text/plain"]


def test_supervision_draws_the_street(tmp_path):
    pytest.importorskip("supervision")
    script, photo, out = (
        ROOT / "examples/with_supervision.py",
        ROOT / "examples/street.jpg",
        tmp_path / "out.png",
    )
    environment = os.environ | {"PYTHONPATH": SOURCES, "OVSDINO_CACHE": str(tmp_path)}
    command = [sys.executable, str(script), str(photo), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "of the lower half" in done.stdout
    with Image.open(photo) as before, Image.open(out) as after:
        assert after.size == before.size
        assert after.tobytes() != before.convert("RGB").tobytes()
