import http.server
import threading

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.files.sources import find_skipped, find_sources, read_frames


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


def test_a_pattern_below_a_folder_with_brackets(folder):
    odd = folder.rename(folder.with_name("[1]"))
    assert names(find_sources([f"{odd}/*.p*"])) == [("photo", "b.png")]


def test_what_operating_systems_leave_and_results_are_no_sources(folder, flag_file):
    (folder / "._a.JPG").write_bytes(b"\0\5\x16\7")
    (folder / "Thumbs.db").write_bytes(b"rubbish")
    for name in ("b_overlay.png", "b_labels.png", "clip_overlay.mp4"):
        (folder / name).write_bytes(flag_file.read_bytes())
    (folder / "b.json").write_text("{}")
    (folder / "d.HEIC").write_bytes(b"a photo all the same")
    assert names(find_sources([folder])) == [*PHOTOS, ("photo", "d.HEIC")]
    assert [file.name for file in find_skipped([folder])] == ["notes.doc"]


class Photos(http.server.BaseHTTPRequestHandler):
    """Serves a photo under every name but ``missing.png``, half of it under ``half.png``."""

    content = b""

    def do_GET(self):
        self.send_response(404 if self.path == "/missing.png" else 200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2] if self.path == "/half.png" else self.content)

    def log_message(self, *_):
        """Say nothing."""


def test_photos_behind_addresses(flag_file):
    Photos.content = flag_file.read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Photos) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        found = find_sources([f"{at}/a%20b.png?size=1", f"{at}/half.png", f"{at}/missing.png"])
        whole, half, missing = read_frames(found)
        server.shutdown()
    assert [(source.kind, source.stem) for source in found[:1]] == [("photo", "a b")]
    np.testing.assert_array_equal(whole.photo, np.asarray(Image.open(flag_file).convert("RGB")))
    assert "half.png: " in str(half.error)
    assert "bytes are missing" in str(half.error)
    assert "missing.png: the server answers 404" in str(missing.error)
