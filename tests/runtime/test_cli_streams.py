"""The command with videos, streams, standard input, Ctrl-C, traces and prefetching."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, TiffImagePlugin

import ovsdino_runtime
from ovsdino_runtime.cli import run
from ovsdino_runtime.files.video import VideoWriter
from ovsdino_runtime.geometry.rle import decode_rle
from ovsdino_runtime.segmenter import Segmenter

SOURCE = Path(ovsdino_runtime.__file__).parents[1]
CLASSES = ("--classes", "red, green, blue")


@pytest.fixture
def invoke(shared_bundle, tmp_path):
    def invoke(*arguments):
        command = [*map(str, arguments), "--model", str(shared_bundle.path), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(run, [*command, "--threads", "1"])

    return invoke


@pytest.fixture
def start(shared_bundle, tmp_path):
    """Start the command as a process of its own."""

    def start(*arguments):
        options = ["--model", shared_bundle.path, "--out", tmp_path / "out", "--threads", 1]
        code = "from ovsdino_runtime.cli import run; run()"
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, [*arguments, *options])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
        )

    return start


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert condition(), process.communicate()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def count(folder):
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.fixture
def clip(tmp_path, flag):
    """Ten pictures a second of a flag whose stripes go round."""
    pytest.importorskip("av")
    writer = VideoWriter(tmp_path / "clip.mp4", rate=10)
    for index in range(9):
        writer.write(np.roll(flag, 50 * index, axis=1), index / 10)
    writer.close()
    return tmp_path / "clip.mp4"


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_video_gives_a_video_a_folder_and_lines(invoke, clip, tmp_path):
    import av

    result = invoke(clip, *CLASSES, "--save", "overlay,labels,json,rle")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    with av.open(str(out / "clip_overlay.mp4")) as container:
        pictures = list(container.decode(video=0))
    assert [(p.height, p.width) for p in pictures] == [(90, 150)] * 9
    np.testing.assert_allclose([p.time for p in pictures], np.arange(9) / 10, atol=1e-3)
    labels = [np.asarray(Image.open(file)) for file in sorted((out / "clip_labels").iterdir())]
    assert [int(some[45, 25]) for some in labels] == [0, 2, 1] * 3
    records = lines(out / "clip.jsonl")
    assert [(record["photo"], record["time_s"]) for record in records[:2]] == [("000000", 0), ("000001", 0.1)]
    masks = [line for line in lines(out / "clip_rle.jsonl") if line["image"] == "000001"]
    for mask in masks:
        decoded = decode_rle(mask["segmentation"]["counts"], *mask["segmentation"]["size"])
        np.testing.assert_array_equal(decoded, labels[1] == mask["category_id"])
        left, top, width, height = mask["bbox"]
        assert decoded[top : top + height, left : left + width].sum() == mask["area"] == decoded.sum()
    assert {mask["category"] for mask in masks} == {"red", "green", "blue"}
    assert "clip.mp4: 9 pictures in " in result.stdout
    assert "a second" in result.stdout


def test_broken_and_missing_sources_do_not_stop_the_others(invoke, clip, flag_file, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    result = invoke(tmp_path / "bad.mp4", clip, flag_file, *CLASSES, "--save", "json")
    assert result.exit_code == 1
    assert "bad.mp4: cannot be read: Invalid data" in result.stderr
    assert f"2 done, 1 not: {tmp_path / 'bad.mp4'}" in result.stderr
    assert names_in(tmp_path / "out") == ["clip.jsonl", "flag.json"]


def test_a_folder_a_pattern_and_a_list(invoke, flag_file, tmp_path):
    shots = tmp_path / "shots"
    shots.mkdir()
    for name in ("a", "b"):
        (shots / f"{name}.png").write_bytes(flag_file.read_bytes())
    (tmp_path / "list.txt").write_text(f"{flag_file}\n")
    result = invoke(shots, f"{tmp_path}/fl*.png", tmp_path / "list.txt", *CLASSES, "--save", "json")
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path / "out") == ["a.json", "b.json", "flag.json"]
    assert result.stderr.startswith("3 pictures in ")


def test_geojson_of_photos_that_say_where_they_lie(invoke, flag, flag_file, tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 1000.0, 2000.0, 0.0)}.items():
        tags.tagtype[tag] = 12
        tags[tag] = values
    tags.tagtype[34735] = 3
    tags[34735] = (1, 1, 0, 1, 3072, 0, 1, 32633)
    Image.fromarray(flag).save(tmp_path / "field.tif", tiffinfo=tags)
    result = invoke(tmp_path / "field.tif", flag_file, *CLASSES, "--save", "geojson,labels")
    assert result.exit_code == 0, result.output
    assert f"{flag_file}: no GeoJSON: it does not say where it lies" in result.stderr
    record = json.loads((tmp_path / "out" / "field.geojson").read_text())
    corners = [p for f in record["features"] for s in f["geometry"]["coordinates"] for p in s[0]]
    assert np.min(corners, axis=0).tolist() == [1000.0, 2000.0 - 45]
    assert np.max(corners, axis=0).tolist() == [1000.0 + 75, 2000.0]
    assert not (tmp_path / "out" / "flag.geojson").exists()


def test_classes_of_standard_input_change_while_it_runs(start, flag_file, tmp_path):
    pictures = tmp_path / "many"
    pictures.mkdir()
    for index in range(400):
        (pictures / f"{index:03}.png").write_bytes(flag_file.read_bytes())
    process = start(pictures, "--classes", "-", "--save", "json", "--quiet")
    process.stdin.write("red, blue\n")
    process.stdin.flush()
    wait_for(lambda: count(tmp_path / "out") >= 3, process)
    process.stdin.write("red, red\ngreen, white\n")
    process.stdin.close()
    process.stdin = None
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors == "Error: class 2 has the name of class 1: 'red'; rename one; the old classes stay\n"
    seen = [json.loads((tmp_path / "out" / f"{i:03}.json").read_text())["classes"] for i in range(400)]
    change = seen.index(["green", "white"])
    assert change >= 3
    assert all(classes == ["red", "blue"] for classes in seen[:change])
    assert all(classes == ["green", "white"] for classes in seen[change:])


def test_no_classes_on_standard_input_are_refused(start, flag_file, tmp_path):
    process = start(flag_file, "--classes", "-")
    _, errors = process.communicate("", timeout=300)
    assert process.returncode == 2
    assert errors.startswith("Error: no class is given")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_ctrl_c_finishes_what_is_begun(start, flag_file, clip, tmp_path):
    import av

    many = tmp_path / "list.txt"
    many.write_text("\n".join([str(clip)] + [f"{tmp_path}/p{i}.png" for i in range(2000)]))
    for i in range(2000):
        (tmp_path / f"p{i}.png").symlink_to(flag_file)
    process = start(many, *CLASSES, "--save", "overlay,json")
    wait_for(lambda: count(tmp_path / "out") >= 6, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "finishing what is begun" in errors
    assert "Traceback" not in errors
    names = names_in(tmp_path / "out")
    assert not [name for name in names if ".partial" in name]
    photos = [name for name in names if name.startswith("p")]
    assert len(photos) < 4000
    assert {n.removesuffix(".json") for n in photos if n.endswith(".json")} == {
        n.removesuffix("_overlay.png") for n in photos if n.endswith(".png")
    }
    assert output.count(" -> ") == len(photos) // 2 + 1  # each is reported
    with av.open(str(tmp_path / "out" / "clip_overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_a_network_camera_that_is_lost_once_and_watched_until_ctrl_c(start, flag, tmp_path):
    av = pytest.importorskip("av")
    from tests.runtime.rtsp_server import Camera, rtp_packets

    packets = rtp_packets(np.stack([np.roll(flag, 50 * (index // 4), axis=1) for index in range(24)]))
    with Camera(packets, [(len(packets) // 2, "drop"), (len(packets), "drop")]) as camera:
        process = start(camera.address, *CLASSES, "--save", "overlay,json")
        stem = f"127.0.0.1-{camera.server_address[1]}-live"
        found = tmp_path / "out" / f"{stem}.jsonl"

        def last():
            return int((lines(found) or [{"photo": 0}])[-1]["photo"]) if found.exists() else 0

        wait_for(lambda: last() >= 24, process)  # more pictures than one visit has: it was lost, and is back
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert f"{camera.address.replace('me:secret@', '')}: the connection was closed; trying again in" in errors
    assert "secret" not in errors
    records = lines(found)
    times = [record["time_s"] for record in records]
    assert times == sorted(times)
    assert all(set(record["classes"]) == {"red", "green", "blue"} for record in records)
    with av.open(str(tmp_path / "out" / f"{stem}_overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(records)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_ctrl_c_exits_with_130_also_where_a_photo_failed(start, flag_file, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "0.png").write_bytes(b"torn")
    for i in range(1, 2000):
        (pictures / f"{i}.png").symlink_to(flag_file)
    process = start(pictures, *CLASSES, "--save", "json")
    wait_for(lambda: count(tmp_path / "out") >= 3, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "0.png: not a photo" in errors
    assert " done, 1 not: " in errors


def test_a_trace_is_written(invoke, flag_file, tmp_path):
    result = invoke(flag_file, *CLASSES, "--trace", tmp_path / "trace.json")
    assert result.exit_code == 0, result.output
    events = json.loads((tmp_path / "trace.json").read_text())
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    stages = {(tracks[event["tid"]], event["name"]) for event in events if event["ph"] == "X"}
    assert {("read", "decode"), ("text_0", "text encode"), ("write_0", "write")} <= stages
    assert {"resize", "vision", "text", "merge"} <= {name for _, name in stages}


def test_a_trace_that_cannot_be_written_is_refused(invoke, flag_file, tmp_path):
    result = invoke(flag_file, *CLASSES, "--trace", flag_file / "trace.json")
    assert result.exit_code == 2
    assert "trace.json: cannot be written: " in result.stderr
    assert not (tmp_path / "out").exists()


def test_whole_photos(invoke, flag_file, tmp_path):
    assert invoke(flag_file, *CLASSES, "--inference", "whole", "--save", "labels").exit_code == 0
    assert set(np.unique(Image.open(tmp_path / "out" / "flag_labels.png"))) == {0, 1, 2}


def test_prefetch_fills_the_cache(invoke, shared_bundle, tmp_path, cache, flag, monkeypatch):
    (tmp_path / "words.txt").write_text("red\nblue|white\n# none\ngreen\n")
    result = invoke("--prefetch", tmp_path / "words.txt")
    assert result.exit_code == 0, result.output
    assert result.stdout == "4 words are encoded now\n"
    with sqlite3.connect(cache / "text.sqlite3") as database:
        rows = database.execute("SELECT phrase FROM phrases_v2 ORDER BY phrase").fetchall()
    database.close()
    assert rows == [("blue",), ("green",), ("red",), ("white",)]
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    monkeypatch.setattr(segmenter.pipeline, "open_text", None)  # calling it would fail
    assert set(segmenter(flag, "red, green, blue|white").coverage()) == {"red", "green", "blue"}


def test_prefetch_and_label_in_one_go(invoke, flag_file, tmp_path):
    (tmp_path / "words.txt").write_text("black\n")
    result = invoke("--prefetch", tmp_path / "words.txt", flag_file, *CLASSES, "--quiet", "--save", "json")
    assert (result.exit_code, result.output) == (0, "")
    assert names_in(tmp_path / "out") == ["flag.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "Missing argument 'PHOTO...'"), (("--prefetch", "no.txt"), "no.txt: cannot be read: No such file")],
)
def test_nothing_to_do_is_refused(invoke, arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_progress_is_shown_with_its_rate(shared_bundle, flag_file, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    (tmp_path / "b.png").write_bytes(flag_file.read_bytes())
    code = "from ovsdino_runtime.cli import run; run()"
    photos = [flag_file, tmp_path / "b.png"]
    options = [*CLASSES, "--model", shared_bundle.path, "--out", tmp_path / "out", "--save", "json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, [*photos, *options])],
        stderr=theirs,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 0, shown
    assert "\r\x1b[K1 of 2: 1 picture in " in shown
    assert "\r\x1b[K2 of 2: 2 pictures in " in shown
    assert " a second" in shown
    assert "\x1b" not in done.stdout
