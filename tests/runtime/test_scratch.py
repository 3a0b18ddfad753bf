import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ovsdino_runtime.base.scratch import scratch_folder, sweep_folders

HOLD = """
import sys, time
from ovsdino_runtime.base.scratch import scratch_folder
with scratch_folder("test") as folder:
    (folder / "weights").write_bytes(bytes(1000))
    print(folder.parent, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def hold() -> tuple[subprocess.Popen[str], Path]:
    """Start a process that holds a folder."""
    import ovsdino_runtime

    environment = os.environ | {"PYTHONPATH": str(Path(ovsdino_runtime.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_private_and_goes_with_the_block(tmp_path):
    with scratch_folder("test") as folder:
        assert list(folder.iterdir()) == []
        assert folder.parent.stat().st_mode & 0o077 == 0
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(tmp_path):
    process, folder = hold()
    os.utime(folder, (0, 0))  # older than any that is being made
    with scratch_folder("test"):
        assert folder.is_dir()  # its process lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (folder / "files" / "weights").is_file()
    os.utime(folder, (0, 0))
    with scratch_folder("other"):
        assert folder.is_dir()  # of another purpose
    with scratch_folder("test"):
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_made_here_is_removed(tmp_path):
    for name in ("ovsdino-test.12345678", "ovsdino-test.1234567", "ovsdino-test.123456789"):
        (tmp_path / name).mkdir()
    (tmp_path / "ovsdino-test.abcdefgh").mkdir()
    (tmp_path / "ovsdino-test.abcdefgh" / "notes.txt").touch()  # not ours: it has neither lock nor our names
    (tmp_path / "ovsdino-test.ijklmnop").symlink_to(tmp_path / "ovsdino-test.abcdefgh")
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    sweep_folders(tmp_path, "ovsdino-test.")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("ovsdino-test.1234567", "ovsdino-test.123456789", "ovsdino-test.abcdefgh", "ovsdino-test.ijklmnop")
    ]


def test_a_young_folder_is_left_alone(tmp_path):
    (tmp_path / "ovsdino-test.12345678").mkdir()
    os.utime(tmp_path / "ovsdino-test.12345678", (time.time(), time.time()))
    sweep_folders(tmp_path, "ovsdino-test.")
    assert (tmp_path / "ovsdino-test.12345678").is_dir()
