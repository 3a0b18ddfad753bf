"""A folder on a real local Ray: the files and the order of one machine, and nothing twice after a kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.cli import run
from ovsdino_runtime.cluster import folder as ray_folder
from ovsdino_runtime.cluster.folder import FolderJob, FolderWorker
from ovsdino_runtime.cluster.journal import FOLDER, Journal
from ovsdino_runtime.files.video import VideoWriter
from ovsdino_runtime.text.class_lists import read_classes

PHOTOS = 24
CLASSES = ["--classes", "red, green|lime, blue", "--background", "0.3"]


@pytest.fixture
def folder(tmp_path):
    """Photos, two of them of one name, and one that is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 192)).save(folder / f"{number:02d}.png")
    Image.open(folder / "03.png").save(folder / "03.jpg")
    (folder / "99.jpg").write_bytes(b"torn")
    return folder


def start(folder, tiny, out, cache, *options):
    code = "from ovsdino_runtime.cli import run; run()"
    command = [sys.executable, "-c", code, str(folder), "--model", str(tiny), "--out", str(out), *CLASSES]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OVSDINO_CACHE": str(cache)}
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, "RAY_AUTH_MODE": "disabled"},
        start_new_session=True,
    )


def results(out: Path) -> dict[str, object]:
    """All files of a folder of results, without what depends on the clock and on the number of threads."""
    found: dict[str, object] = {}
    for file in out.iterdir():
        if file.suffix == ".json":
            record = json.loads(file.read_text())
            found[file.name] = {k: v for k, v in record.items() if k not in ("timings_ms", "versions")}
        elif file.name != FOLDER and ".partial" not in file.name:  # what a killed process had begun
            found[file.name] = file.read_bytes()
    return found


def names(output: str) -> list[str]:
    return re.findall(r"^\S*/(\S+) \(256x192\)$", output, re.MULTILINE)


def journal(out: Path) -> list[str]:
    return [
        Path(json.loads(json.loads(line))[0]).name
        for file in (out / FOLDER).glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]


@pytest.mark.slow
def test_the_same_files_in_the_same_order_and_none_twice_after_a_kill(folder, tiny, tmp_path):
    cache = tmp_path / "cache"
    alone = start(folder, tiny, tmp_path / "alone", cache, "--threads", "1")
    expected, _ = alone.communicate(timeout=300)
    assert alone.returncode == 1  # one photo is broken
    out = tmp_path / "ray"
    killed = start(folder, tiny, out, cache, "--ray", "local", "--workers", "1")
    try:
        deadline = time.monotonic() + 300
        while not (out / FOLDER).exists() or len(journal(out)) < 3:
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        wait_for_the_end_of(killed.pid)
    before = {file: file.stat().st_mtime_ns for file in out.iterdir() if file.suffix == ".json"}
    done = journal(out)
    assert 3 <= len(done) < PHOTOS + 1
    again = start(folder, tiny, out, cache, "--ray", "local", "--workers", "2")
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 1, errors
    assert f"{PHOTOS + 1 - len(done)} done in" in errors
    assert f"{len(done)} were done before" in errors
    assert f"Error: {folder / '99.jpg'}: not a photo" in errors
    assert names(output) == [name for name in names(expected) if name not in done]
    assert sorted(journal(out)) == sorted(names(expected))  # each once
    for name in done:  # not written a second time
        stem = "03-2" if name == "03.png" else Path(name).stem
        assert (out / f"{stem}.json").stat().st_mtime_ns == before[out / f"{stem}.json"]
    assert results(out) == results(tmp_path / "alone")


def wait_for_the_end_of(session):
    """Ray's own processes end when their driver is gone; those that do not are ended with its session."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.killpg(session, 0)
            time.sleep(0.1)
            continue
        return
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def invoke(tiny, folder, tmp_path, *options):
    arguments = [str(folder), "--model", str(tiny), "--out", str(tmp_path / "out"), *CLASSES, *options]
    return CliRunner().invoke(run, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers is for a cluster: give --ray ADDRESS as well"),
        (["--ray", "local", "--trace", "t.json"], "neither --classes - nor --trace goes with it"),
        (["--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: no Ray cluster answers there"),
        (["--ray", "local", "--model", "no-such"], "no-such: neither a packaged model nor a bundle"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_no_trace(tiny, folder, tmp_path, options, message):
    done = invoke(tiny, folder, tmp_path, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_camera_is_not_for_a_cluster(tiny, tmp_path):
    done = invoke(tiny, "rtsp://10.0.0.7/main", tmp_path, "--ray", "local")
    assert done.exit_code == 2
    assert "rtsp://10.0.0.7/main: a live source is not for a cluster; leave --ray out" in done.stderr


def test_a_worker_does_photos_and_videos_and_tells_what_is_wrong(tiny, folder, tmp_path, monkeypatch):
    """One worker without Ray: a video's files are those of the command; a folder that is shut is told."""
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    video = tmp_path / "clip.mp4"
    with closing(VideoWriter(video, rate=2)) as writer:
        for number in range(3):
            writer.write(np.full((64, 96, 3), 80 * number, np.uint8), number / 2)
    alone = invoke(tiny, video, tmp_path, "--save", "labels,json")
    assert alone.exit_code == 0, alone.output
    options = RuntimeOptions(threads=1)
    job = FolderJob(
        model=str(tiny),
        options=options,
        vocabulary=read_classes(CLASSES[1]),
        background=0.3,
        kinds=("labels", "json"),
        out=tmp_path / "worker",
    )
    Journal(job.out).begin({})
    worker = FolderWorker(replace(job, vocabulary=replace(job.vocabulary, background=True)))
    rows = ray_folder._rows([Source("video", str(video)), Source("photo", str(folder / "99.jpg"))])
    (good, broken) = (worker(row) for row in rows)
    assert json.loads(good["outcome"])["done"] == 3
    assert f"{video}: 3 pictures" in json.loads(good["outcome"])["text"]
    assert json.loads(broken["outcome"])["errors"][0].startswith(f"{folder / '99.jpg'}: not a photo")
    assert journal(tmp_path / "worker") == ["clip.mp4"]
    frames = sorted((tmp_path / "out" / "clip_labels").iterdir())
    assert len(frames) == 3
    for frame in frames:
        assert (tmp_path / "worker" / "clip_labels" / frame.name).read_bytes() == frame.read_bytes()
    (tmp_path / "shut").write_text("a file")
    refused = FolderWorker(replace(job, out=tmp_path / "shut"))(rows[0])
    assert "cannot be written" in refused["refused"]
