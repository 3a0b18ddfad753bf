"""`ovsdino demo` as a person starts it, and the tiny model of the runtime's tests where that is enough."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovsdino_runtime.bundle.bundle import write_bundle
from ovsdino_runtime.segmenter import Segmenter
from tests.runtime.conftest import _stage, tiny_manifest

TELL_OF_CALLS = """
import sys
CALLS = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, arguments: event in CALLS and print(event, arguments, file=sys.stderr))
"""
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def started(folder, *options):
    """Run the command in a process of its own, with its temporary files in a folder; its address, and it."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "OVSDINO_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in (".", "runtime")),
    }
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a terminal
    code += TELL_OF_CALLS
    code += f"from ovsdino.cli import main; main(['demo', '--port', '0', '--threads', '1', *{options!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        if not (address := re.match(r"(http://127\.0\.0\.1:\d+) ", line)):
            process.kill()
            raise AssertionError(line + process.communicate()[1])
        yield address[1], process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a page with nano."""
    with started(tmp_path_factory.mktemp("demo")) as (address, process):
        yield address
        process.send_signal(signal.SIGINT)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    """The tiny model's bundle, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSDINO_CACHE", str(tmp_path_factory.mktemp("cache")))
        _stage(folder := tmp_path_factory.mktemp("staging"))
        yield write_bundle(tmp_path_factory.mktemp("bundles") / "tiny.ovs", tiny_manifest(), folder).path


@pytest.fixture(scope="session")
def tiny(tiny_path):
    """The tiny model."""
    return Segmenter.load(tiny_path, threads=1)


@pytest.fixture
def flag(tmp_path):
    """A photo (90, 150) of three upright stripes: red, green, blue."""
    import numpy as np
    from PIL import Image

    path = tmp_path / "flag.png"
    Image.fromarray(np.repeat(np.eye(3, dtype=np.uint8) * 255, 50, axis=0)[None].repeat(90, axis=0)).save(
        path
    )
    return path
