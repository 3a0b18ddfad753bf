import http.server
import io
import struct
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import OutputError, PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.files import video
from ovsdino_runtime.files.video import Patience, VideoWriter, read_video

av = pytest.importorskip("av")
HASTE = Patience(first=0.01, max_count=0.02, tries=3, timeout=5, steady=0)
COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220)]


def picture(index, size=(48, 64)):
    return np.full((*size, 3), COLOURS[index % 3], np.uint8)


def read(address, kind="video", *, stop=None):
    return read_video(Source(kind, str(address)), stop=stop or threading.Event(), patience=HASTE)


def colour(photo):
    """The index of the nearest of the colours."""
    return int(np.abs(photo.mean(axis=(0, 1)) - COLOURS).sum(axis=1).argmin())


@pytest.fixture
def clip(tmp_path):
    """A video of 12 pictures, 10 a second."""
    writer = VideoWriter(tmp_path / "clip.mp4", rate=10)
    for index in range(12):
        writer.write(picture(index), index / 10)
    writer.close()
    return tmp_path / "clip.mp4"


def test_pictures_come_back_in_order_with_their_times(clip):
    frames = list(read(clip))
    assert [colour(frame.photo) for frame in frames] == [index % 3 for index in range(12)]
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 10, atol=1e-3)
    assert frames[0].photo.shape == (48, 64, 3)
    assert np.abs(frames[0].photo.astype(int) - COLOURS[0]).max() < 12  # H.264 is lossy
    assert not frames[0].live


def test_uneven_times_and_sizes_are_kept_and_fitted(tmp_path):
    writer = VideoWriter(tmp_path / "odd.mp4", rate=0)
    for size, at in [((33, 51), 0.0), ((33, 51), 0.5), ((80, 20), 0.52), ((33, 51), 0.52)]:
        writer.write(picture(1, size), at)
    writer.close()
    frames = list(read(tmp_path / "odd.mp4"))
    assert [frame.photo.shape for frame in frames] == [(32, 50, 3)] * 4
    np.testing.assert_allclose([frame.time for frame in frames], [0, 0.5, 0.52, 0.52], atol=1e-3)


def test_without_h264_a_video_is_written_as_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "ENCODERS", {"mpeg4": video.ENCODERS["mpeg4"]})
    writer = VideoWriter(tmp_path / "plain.mp4", rate=10)
    for index in range(12):
        writer.write(picture(index), index / 10)
    writer.close()
    with av.open(str(tmp_path / "plain.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    frames = list(read(tmp_path / "plain.mp4"))
    assert [colour(frame.photo) for frame in frames] == [index % 3 for index in range(12)]
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 10, atol=1e-3)


def test_a_video_that_was_not_closed_can_be_played(tmp_path):
    writer = VideoWriter(tmp_path / "cut.mp4", rate=10)
    for index in range(400):  # eight groups of pictures
        writer.write(picture(index), index / 10)
    assert len(list(read(tmp_path / "cut.mp4"))) >= 300
    writer.close()
    assert len(list(read(tmp_path / "cut.mp4"))) == 400


def test_an_upright_telephone_video_is_turned(tmp_path):
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90) if hasattr(stream, "set_display_rotation") else pytest.skip(
            "old PyAV"
        )
        left_red = picture(2)
        left_red[:, :32] = COLOURS[0]
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(left_red, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    photo = next(iter(read(tmp_path / "turned.mp4"))).photo
    assert photo.shape == (64, 48, 3)
    assert (colour(photo[40:]), colour(photo[:24])) == (
        0,
        2,
    )  # anticlockwise: left comes to lie at the bottom


@pytest.fixture
def torn(tmp_path):
    """A video of single JPEG pictures, three of which are overwritten."""
    path = tmp_path / "torn.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index in range(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    for number in (3, 4, 7):
        data[starts[number] : starts[number] + 600] = bytes(600)
    path.write_bytes(data)
    return path


def test_broken_pictures_are_reported_and_skipped(torn):
    frames = list(read(torn))
    good = [frame for frame in frames if frame.photo is not None]
    assert [colour(frame.photo) for frame in good] == [0, 1, 2, 2, 0, 2]
    bad = [frame for frame in frames if frame.photo is None]
    assert len(bad) == 3
    assert all("torn.mkv: a broken picture: " in str(frame.error) for frame in bad)


def test_a_file_that_ends_early_gives_what_it_has(torn, tmp_path):
    whole = torn.read_bytes()
    (tmp_path / "short.mkv").write_bytes(whole[: whole.rindex(b"\xff\xd8\xff") - 100])
    assert sum(frame.photo is not None for frame in read(tmp_path / "short.mkv")) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no video at all", "processing input; get the file again, or convert it with ffmpeg"),
        (b"", "cannot be read: the file is empty; get it again"),
        (None, "cannot be read: No such file or directory; check the path"),
    ],
)
def test_what_is_no_video_is_reported(tmp_path, content, message):
    if content is not None:
        (tmp_path / "bad.mp4").write_bytes(content)
    (frame,) = read(tmp_path / "bad.mp4")
    assert frame.photo is None
    assert message in str(frame.error)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.time_base = 8000, Fraction(1, 8000)
        container.mux(stream.encode(sound))
    (frame,) = read(tmp_path / "sound.mkv")
    assert "sound.mkv: cannot be read: no pictures in it" in str(frame.error)


class Camera(http.server.BaseHTTPRequestHandler):
    """A network camera: JPEG pictures one after the other, and after some the connection is closed."""

    pictures_a_time = 6

    def do_GET(self):
        self.server.visits += 1
        if self.server.visits > self.server.max_count:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(self.pictures_a_time):
            file = io.BytesIO()
            Image.fromarray(picture(index)).save(file, "JPEG")
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {file.tell()}\r\n\r\n"
            self.wfile.write(head.encode() + file.getvalue() + b"\r\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def camera():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.visits, server.max_count = 0, 2
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_lost_camera_is_sought_again_and_given_up_at_last(camera):
    started = time.monotonic()
    frames = list(read(f"http://127.0.0.1:{camera.server_port}/live", "live"))
    pictures = [frame for frame in frames if frame.photo is not None]
    per_visit = len(pictures) // 2
    assert Camera.pictures_a_time - 1 <= per_visit <= Camera.pictures_a_time  # the last one has no end
    assert [frame.index for frame in pictures] == list(range(len(pictures)))
    assert all(frame.live for frame in frames)
    errors = [str(frame.error).partition("/live: ")[2] for frame in frames if frame.photo is None]
    assert [error.partition("; ")[2] for error in errors] == [
        "trying again in 0.01 s",
        "trying again in 0.01 s",  # patience is new after success
        "trying again in 0.02 s",
        "trying again in 0.02 s",
        "given up after 3 tries",
    ]
    times = [frame.time for frame in pictures]
    assert times == sorted(times)
    assert times[-1] <= time.monotonic() - started


def test_waiting_for_a_camera_can_be_stopped(camera):
    camera.max_count = 1
    stop = threading.Event()
    patience = Patience(first=60, max_count=60, tries=3, timeout=5)
    source = Source("live", f"http://127.0.0.1:{camera.server_port}/live")
    frames = read_video(source, stop=stop, patience=patience)
    for frame in frames:
        if frame.photo is None:
            break
    threading.Timer(0.1, stop.set).start()
    assert list(frames) == []  # not after a minute


def test_an_address_where_nobody_answers_is_not_tried_for_ever():
    (frame,) = read("rtsp://127.0.0.1:9/none", "live")
    assert "rtsp://127.0.0.1:9/none: cannot be read: Connection refused" in str(frame.error)


def test_a_missing_camera_is_reported():
    (frame,) = read("97", "live")
    assert "camera 97: cannot be read: " in str(frame.error)


def test_back_off_doubles_up_to_its_limit():
    patience = Patience(first=0.5, max_count=30)
    assert [patience.pause(tries) for tries in (1, 2, 3, 7, 8)] == [0.5, 1, 2, 30, 30]


def test_a_video_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"clip\.mp4: cannot be written: "):
        VideoWriter(tmp_path / "file" / "clip.mp4", rate=10)


def test_without_pyav_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(
        PhotoError, match=r"videos, cameras and streams need PyAV .*pip install '\.\[video\]'"
    ):
        next(read("clip.mp4"))
    with pytest.raises(OutputError, match=r"pip install '\.\[video\]'"):
        VideoWriter("clip.mp4", rate=10)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    ],
)
def test_the_matrix_of_a_track_turns_and_mirrors(clip, matrix, shown):
    corner = np.zeros((48, 64, 3), np.uint8)
    corner[:20, :30] = COLOURS[0]
    writer = VideoWriter(clip, rate=10)
    writer.write(corner, 0)
    writer.close()
    plain = next(iter(read(clip))).photo
    data = bytearray(clip.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0
    a, b, c, d = (part << 16 for part in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    np.testing.assert_array_equal(next(iter(read(clip))).photo, shown(plain))


def test_the_picture_on_a_cover_is_not_the_film(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = container.add_stream("mpeg4", rate=10)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        for stream, size in ((cover, (32, 32)), (film, (48, 64))):
            frame = av.VideoFrame.from_ndarray(picture(1, size), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert [frame.photo.shape for frame in read(tmp_path / "film.mp4")] == [(48, 64, 3)]


def test_a_video_without_a_picture_is_a_failure(tmp_path, clip):
    data = clip.read_bytes()
    for name, content in (("zeroed", bytes(len(data))), ("cut", data[: data.index(b"moof")])):
        (tmp_path / f"{name}.mp4").write_bytes(content)
        frames = list(read(tmp_path / f"{name}.mp4"))
        assert frames
        assert all(frame.photo is None and "cannot be read" in str(frame.error) for frame in frames)


def test_times_count_from_the_beginning(tmp_path):
    with av.open(str(tmp_path / "late.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 10), 50_000 + index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    times = [frame.time for frame in read(tmp_path / "late.ts")]
    np.testing.assert_allclose(times, np.arange(len(times)) / 10, atol=0.051)


@pytest.mark.parametrize("name", ["12:30:05.mp4", "pipe:0.mp4", "data:clip.mp4", "50%d.mp4"])
def test_a_file_may_be_named_like_a_protocol(clip, name):
    named = clip.rename(clip.with_name(name))
    assert len(list(read(named))) == 12


def write_squeezed(path, picture, aspect):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("aspect", "shown", "note"),
    [
        (Fraction(2), (96, 128), "its pixels are 2:1: 64x96 is scaled to 128x96"),
        (Fraction(64, 45), (96, 91), "its pixels are 64:45: 64x96 is scaled to 91x96"),
        (Fraction(1, 2), (192, 64), "its pixels are 1:2: 64x96 is scaled to 64x192"),
        (Fraction(1), (96, 64), None),
        (Fraction(9), (96, 64), "its pixels are 9:1, which cannot be: taken as square"),
    ],
)
def test_pixels_become_square(tmp_path, aspect, shown, note):
    """A disc that was squeezed when it was stored is round again."""
    rows, columns = np.mgrid[: shown[0], : shown[1]]
    disc = ((rows - shown[0] / 2) ** 2 + (columns - shown[1] / 2) ** 2 < 30**2) * np.uint8(255)
    stored = Image.fromarray(disc).resize((64, 96)).convert("RGB")
    write_squeezed(tmp_path / "clip.mp4", np.asarray(stored), aspect)
    frames = list(read(tmp_path / "clip.mp4"))
    assert [frame.photo.shape for frame in frames] == [(*shown, 3)] * 3
    assert [frame.notes for frame in frames] == [(note,) if note else (), (), ()]
    different = (frames[0].photo[:, :, 0] > 127) != (disc > 127)
    assert different.sum() < 0.1 * (disc > 0).sum()  # along its edge
