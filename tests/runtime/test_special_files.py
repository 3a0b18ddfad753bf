"""Named pipes, sockets, devices and folders in place of files: one line at once, and no wait for a writer."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from ovsdino_runtime.base.errors import BundleError, OvsdinoError, PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.bundle.bundle import MANIFEST, load_bundle
from ovsdino_runtime.files.sources import find_sources
from ovsdino_runtime.integrations.ros_bags import find_bags
from ovsdino_runtime.serve.access import read_keys
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.vocabulary import load_templates

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX files")
KINDS = ("folder", "pipe", "device", "socket", "loop", "dangling")


@pytest.fixture(autouse=True)
def no_wait():
    """End a test that waits for the other end of a pipe."""
    signal.alarm(10)
    yield
    signal.alarm(0)


def make(path: Path, kind: str) -> Path:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nothing")
    else:
        folder = os.open(path.parent, os.O_RDONLY)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # the whole path may be longer than is allowed
        listener.close()
        os.close(folder)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_but_files_is_regular(tmp_path, kind):
    with pytest.raises(OSError, match=r"directory|named pipe|device|socket|symbolic links|No such file"):
        regular_file(make(tmp_path / "x", kind))


def test_a_link_to_a_file_is_regular(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert regular_file(tmp_path / "b").read_text() == "x"


READERS = {
    "photo": ("x.png", load_photo),
    "classes": ("x.txt", lambda path: read_classes(f"@{path}")),
    "templates": ("x.txt", lambda path: load_templates(f"@{path}")),
    "list of photos": ("x.txt", lambda path: find_sources([str(path)])),
    "keys": ("keys", read_keys),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_readers_say_so_in_one_line(tmp_path, kind, reader):
    name, read = READERS[reader]
    with pytest.raises((OvsdinoError, OSError)) as caught:
        read(make(tmp_path / name, kind))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_any_file_of_a_bundle(bundle, tmp_path, kind):
    import shutil

    for number, name in enumerate((MANIFEST, "vision.onnx", "golden.npz", "tokenizer.json")):
        bad = shutil.copytree(bundle.path, tmp_path / f"{number}.ovs")
        (bad / name).unlink()
        make(bad / name, kind)
        with pytest.raises(BundleError) as caught:
            load_bundle(bad)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_message_names_the_kind(tmp_path):
    with pytest.raises(PhotoError, match="a named pipe, expected a regular file"):
        load_photo(make(tmp_path / "x.png", "pipe"))


def test_a_pipe_is_no_video(tmp_path):
    pytest.importorskip("av")
    from ovsdino_runtime.files.video import read_video

    (frame,) = read_video(Source("video", str(make(tmp_path / "x.mp4", "pipe"))), stop=threading.Event())
    assert str(frame.error).endswith(
        "x.mp4: cannot be read: a named pipe, expected a regular file; check the path"
    )


def test_a_pipe_is_no_bag(tmp_path):
    with pytest.raises(PhotoError, match=r"x\.mcap: not a bag; it is no regular file"):
        find_bags([str(make(tmp_path / "x.mcap", "pipe"))])
