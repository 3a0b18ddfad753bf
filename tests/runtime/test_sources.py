import threading

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.files.sources import find_sources, read_frames


@pytest.fixture
def folder(tmp_path, flag_file):
    place = tmp_path / "shots"
    place.mkdir()
    for name in ("b.png", "a.JPG", "c.tiff"):
        Image.open(flag_file).save(place / name)
    (place / "notes.doc").write_text("no picture")
    (place / "clip.mp4").write_bytes(b"no video")
    return place


def names(sources):
    return [(source.kind, source.address.rsplit("/", 1)[-1]) for source in sources]


PHOTOS = [("photo", "a.JPG"), ("photo", "b.png"), ("photo", "c.tiff"), ("video", "clip.mp4")]


def test_a_folder_is_its_photos_and_videos(folder):
    assert names(find_sources([folder])) == PHOTOS


def test_patterns(folder, monkeypatch):
    assert names(find_sources([f"{folder}/*.p*"])) == [("photo", "b.png")]
    monkeypatch.chdir(folder.parent)
    assert names(find_sources(["shots/[ab].*"])) == PHOTOS[:2]
    assert names(find_sources(["**/*.tiff"])) == PHOTOS[2:3]
    odd = folder / "what[1].png"
    (folder / "b.png").rename(odd)
    assert names(find_sources([odd])) == [("photo", "what[1].png")]  # a file of that name is no pattern


def test_lists(folder):
    file = folder.parent / "shots.txt"
    file.write_text(f"# mine\n{folder / 'b.png'}\n\n{folder}/a*\nrtsp://camera/1\n")
    found = find_sources([folder / "b.png", file])
    assert names(found) == [("photo", "b.png"), ("photo", "a.JPG"), ("live", "1")]


def test_live_sources():
    found = find_sources(["0", "rtsp://me:secret@10.0.0.7:554/live/main?low=1", "http://host/"])
    assert {source.kind for source in found} == {"live"}
    assert [source.stem for source in found] == ["camera-0", "10.0.0.7-554-live-main", "host"]
    assert found[1].name == "rtsp://10.0.0.7:554/live/main?low=1"  # messages do not tell passwords


def test_a_file_may_be_named_like_a_camera(tmp_path, flag_file, monkeypatch):
    (tmp_path / "7").write_bytes(flag_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert find_sources(["7"]) == [Source("photo", "7")]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nothing.jpg", "nothing.jpg: no such file"),
        ("empty", "empty: no photos in it"),
        ("*.png", r"\*.png: no photos fit this pattern"),
        ("empty.txt", "empty.txt: names no photos; write one a line"),
        ("bytes.txt", "bytes.txt: cannot be read: not a text file in UTF-8"),
        ("nested.txt", "nested.txt: holds another list, empty.txt; name both lists"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# none\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "nested.txt").write_text("empty.txt\n")
    with pytest.raises(PhotoError, match=message):
        find_sources([argument])


def test_frames_come_in_order_and_broken_ones_with_their_error(folder, flag):
    (folder / "a.JPG").write_bytes(b"torn")
    (folder / "clip.mp4").unlink()
    first, second, third = read_frames([folder])
    assert first.photo is None
    assert "a.JPG: not a photo" in str(first.error)
    np.testing.assert_array_equal(second.photo, flag)
    assert third.source.address.endswith("c.tiff")
    assert second.decode > 0


def test_reading_ends_when_it_is_told_to(folder):
    stop = threading.Event()
    frames = read_frames(find_sources([folder]), stop=stop)
    next(frames)
    stop.set()
    assert list(frames) == []
