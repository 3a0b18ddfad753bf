import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ovsdino_runtime
from ovsdino_runtime.base import atomic
from ovsdino_runtime.base.atomic import partial_file, sweep, write_bytes, write_text


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "one\n")
    write_text(path, "zwei, drei: ä\n")
    assert path.read_bytes() == "zwei, drei: ä\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.png"
    write_bytes(path, b"old")

    def fail() -> None:
        with partial_file(path) as partial:
            assert partial.suffix == ".png"  # for writers that choose a format by it
            partial.write_bytes(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
def test_a_link_is_replaced_and_permissions_are_the_users(tmp_path):
    (tmp_path / "outside").write_text("keep me")
    (path := tmp_path / "file").symlink_to(tmp_path / "outside")
    old = os.umask(0o027)
    try:
        write_text(path, "new")
    finally:
        os.umask(old)
    assert (tmp_path / "outside").read_text() == "keep me"
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640


def test_threads_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "file"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: write_bytes(path, bytes([number]) * 10_000), range(64)))
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 10_000
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys, time
from pathlib import Path
from ovsdino_runtime.base.atomic import partial_file
with partial_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    environment = os.environ | {"PYTHONPATH": str(Path(ovsdino_runtime.__file__).parents[1])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / name)], stdout=subprocess.PIPE, env=environment
        )
        for name in ("killed", "living")
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"writing\n"
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        monkeypatch.setattr(atomic, "STALE_S", 0)
        monkeypatch.setattr(atomic, "_swept", set())
        time.sleep(0.01)
        sweep(tmp_path)
        names = [path.name for path in tmp_path.iterdir()]
        assert len(names) == 1
        assert names[0].startswith(".living.")
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
