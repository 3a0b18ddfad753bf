"""The same shards on a real local Ray with two workers, one of which is killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino.cli import main
from ovsdino.masks.cluster import REFUSED, gpus_each
from ovsdino.masks.shards import MaskError

PHOTOS = 16


@pytest.fixture
def arguments(detector, sam_file, nltk_data, tmp_path, write_captions):
    folder = tmp_path / "many"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"{number:02d}.png")
    said = {
        f"{number:02d}.png": ["a cat on the grass .", "two dogs run with a ball"] for number in range(PHOTOS)
    }
    given = {
        "photos": folder,
        "captions": write_captions(tmp_path / "captions.json", said),
        "nltk-data": nltk_data,
        "detector": detector,
        "sam": sam_file,
        "least-captions": 1,
        "shard-size": 1,
        "device": "cpu",
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def start(arguments, out, *more):
    code = "from ovsdino.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "pseudo-masks", "--out", str(out), *arguments, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_AUTH_MODE": "disabled"},
    )


def workers(root):
    """Process numbers of the Ray workers below a process that make shards."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            names[int(folder.name)] = (folder / "cmdline").read_text()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = []
    for process, name in names.items():
        above = process
        while above in parents and above != root:
            above = parents[above]
        if above == root and name.startswith("ray::") and "ShardMaker" in name:
            found.append(process)
    return found


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_two_workers_one_of_them_killed_make_what_one_process_makes(arguments, tmp_path):
    alone = CliRunner().invoke(main, ["pseudo-masks", "--out", str(tmp_path / "alone"), *arguments])
    assert alone.exit_code == 0, alone.output
    ray = start(arguments, out := tmp_path / "ray", "--ray", "local", "--workers", "2")
    deadline, killed = time.monotonic() + 500, 0
    while not killed and ray.poll() is None and time.monotonic() < deadline:
        done = len(list(out.glob("shard-*.gz"))) if out.exists() else 0
        if 0 < done < PHOTOS and (found := workers(ray.pid)):
            os.kill(found[0], signal.SIGKILL)
            killed = found[0]
        time.sleep(0.002)
    output, _ = ray.communicate(timeout=500)
    assert ray.returncode == 0, output
    assert killed, output
    assert contents(out) == contents(tmp_path / "alone")


def test_gpus_are_those_of_the_cluster():
    assert [gpus_each(device, 2) for device in (None, "cuda", "cpu")] == [1, 1, 0]
    assert [gpus_each(device, 0) for device in (None, "cpu")] == [0, 0]
    with pytest.raises(MaskError, match="--device cuda: the Ray cluster has no GPU; give cpu"):
        gpus_each("cuda", 0)


def test_the_driver_needs_no_device_and_workers_get_whole_paths(arguments, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("ovsdino.masks.cluster.make_masks_on_cluster", lambda job, **_: given.append(job))
    words = dict(zip(arguments[::2], arguments[1::2], strict=True))
    sam, detector = Path(words["--sam"]), Path(words["--detector"])
    monkeypatch.chdir(sam.parent)
    words |= {"--sam": sam.name, "--detector": os.path.relpath(detector), "--device": "cuda:77"}
    line = [word for pair in words.items() for word in pair]
    CliRunner().invoke(main, ["pseudo-masks", "--out", str(tmp_path / "o"), *line, "--ray", "local"])
    (job,) = given
    assert job.source.sam == sam
    assert Path(job.source.detector).is_absolute()
    assert Path(job.source.detector).samefile(detector)
    with pytest.raises(MaskError, match="--device cuda:77: torch cannot use it here"):
        job.source.open()


def test_no_cluster_at_the_address_is_one_line(arguments, tmp_path):
    out = tmp_path / "out"
    ray = CliRunner().invoke(main, ["pseudo-masks", "--out", str(out), *arguments, "--ray", "127.0.0.1:1"])
    assert ray.exit_code == 2
    assert "Error: --ray 127.0.0.1:1: no Ray cluster answers there" in ray.stderr
    assert not out.exists()


def test_a_workers_refusal_is_found_at_the_end_of_rays_text():
    text = (
        "The actor died\n  File x, in open\novsdino.masks.shards.MaskError: sam.pth: no such file; get it\n"
    )
    assert REFUSED.search(text)[1] == "sam.pth: no such file; get it"
    assert REFUSED.search("The actor died\nKeyError: 'MaskError'") is None
