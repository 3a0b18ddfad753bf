"""The same shards on a real local Ray with two workers, one of which is killed in the middle."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ovsdino.cli import main
from ovsdino.masks.cluster import ShardMaker
from ovsdino.masks.errors import MaskError
from ovsdino_runtime.cluster.ray import ClusterError, gpus_per_worker

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
        "min-captions": 1,
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
    rich, poor = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}
    assert [gpus_per_worker(device, 2, rich) for device in (None, "cuda", "cpu")] == [1, 1, 0]
    assert [gpus_per_worker(device, 3, poor) for device in (None, "cpu")] == [0, 0]
    assert gpus_per_worker("cpu", 8, rich) == 0


@pytest.mark.parametrize(
    ("device", "workers", "there", "message"),
    [
        ("cuda", 1, {"CPU": 2}, "--device cuda: the Ray cluster has no GPU; give cpu"),
        (
            "cuda:0",
            3,
            {"CPU": 8, "GPU": 2},
            "--workers 3: each takes a GPU, .* has 2; give so many",
        ),
        (
            None,
            3,
            {"CPU": 8, "GPU": 2},
            "--workers 3: each takes a GPU, .* has 2; .*--device cpu",
        ),
        ("cpu", 3, {"CPU": 2}, "--workers 3: each takes a processor, the Ray cluster has 2; give so many"),
        (None, 1, {}, "--workers 1: each takes a processor, the Ray cluster has 0"),
    ],
)
def test_what_the_cluster_lacks_is_refused_before_ray_waits_for_it(device, workers, there, message):
    with pytest.raises(ClusterError, match=message):
        gpus_per_worker(device, workers, there)


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


@pytest.mark.slow
def test_a_workers_refusal_is_one_line_without_rays_own(arguments, tmp_path):
    ray = start(arguments, out := tmp_path / "out", "--ray", "local", "--sam", "nosuch.pth")
    output, _ = ray.communicate(timeout=500)
    assert ray.returncode == 2, output
    assert re.search(r"^Error: a Ray worker: .*nosuch.pth: no such file; SAM's", output, re.MULTILINE), output
    ours = ("captions", "masks", "4 nouns", "[20")  # the last is what Ray's core logs
    lines = [line for line in output.splitlines() if line and not line.startswith(ours)]
    said = [line for line in lines if "(raylet)" not in line]  # now and then it tells of a worker's end
    assert len(said) == 1, output
    assert not list(out.glob("shard-*"))


def test_a_worker_tells_what_can_be_mended_and_raises_its_own_faults(tmp_path):
    row = {"shard": 0, "tasks": json.dumps([{"image": "nowhere.png", "nouns": ["cat"], "others": []}])}

    class Options:
        def __init__(self, error):
            self.error = error

        def open(self):
            raise self.error

    for error, line in (
        (MaskError("sam.pth: no such file; get it"), "sam.pth: no such file; get it"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "the GPU has too little memory; give a smaller"),
        (MemoryError(), "too little memory; give a smaller --sam"),
    ):
        told = ShardMaker(tmp_path, tmp_path, Options(error))(row)
        assert told["photos"] == 0
        assert told["refused"].startswith(line)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        ShardMaker(tmp_path, tmp_path, Options(RuntimeError("shapes do not fit")))(row)
