"""RTSP from a real server over TCP: order, lost connections, silence; and what a camera is opened with."""

import threading

import numpy as np
import pytest

from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.files import video
from ovsdino_runtime.files.video import Patience, read_video

av = pytest.importorskip("av")
from tests.runtime.rtsp_server import Camera, rtp_packets  # noqa: E402 - needs PyAV

HASTE = Patience(first=0.05, max_count=0.1, tries=2, timeout=3, steady=0)  # stalls of a second occur
PICTURES = 30
WHOLE = (10_000, "drop")


@pytest.fixture(scope="module")
def packets():
    """Thirty grey pictures, each 8 lighter than the last."""
    greys = 8 + 8 * np.arange(PICTURES, dtype=np.uint8)
    return rtp_packets(np.broadcast_to(greys[:, None, None, None], (PICTURES, 48, 64, 3)))


def watch(camera, *, stop=None):
    """Read until it is given up: runs of pictures by their numbers in the server's video, and messages."""
    seen = []
    frames = read_video(Source("live", camera.address), stop=stop or threading.Event(), patience=HASTE)
    for index, frame in enumerate(frames):
        if frame.photo is None:
            seen.append(str(frame.error))
            continue
        assert frame.photo.shape == (48, 64, 3)
        assert frame.live
        assert frame.index == index - sum(isinstance(one, str) for one in seen)  # counts on after a loss
        number = round((float(frame.photo.mean()) - 8) / 8)
        if seen and isinstance(seen[-1], list):
            seen[-1].append(number)
        else:
            seen.append([number])
    return seen


def test_a_lost_connection_is_reported_and_the_camera_is_seen_again(packets):
    with Camera(packets, [(len(packets) // 2, "drop"), WHOLE]) as camera:
        first, lost, second, *end = watch(camera)
        assert camera.asked == 2 * ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
        name = camera.address.replace("me:secret@", "")
    assert first == list(range(len(first)))
    assert PICTURES // 3 < len(first) < 2 * PICTURES // 3
    assert lost == f"{name}: the connection was closed; trying again in 0.05 s"
    assert second == list(range(PICTURES))
    assert [message.rpartition(": ")[0] for message in end] == [name] * 3
    assert end[0].endswith("the connection was closed; trying again in 0.05 s")  # patience is new
    assert end[1].endswith("; trying again in 0.1 s")  # nobody is there any more
    assert end[2].endswith("; given up after 2 tries")


def test_a_camera_that_falls_silent_is_given_up_after_the_timeout(packets):
    with Camera(packets, [(len(packets), "silent"), (len(packets), "drop")]) as camera:
        first, silent, second, *_ = watch(camera)
    assert first == second[: len(first)]
    assert len(first) >= PICTURES - 1  # what is between the last two packets may wait for the next
    assert silent.endswith("/live: no data for 3 s; trying again in 0.05 s")
    assert second == list(range(PICTURES))


def test_a_silent_camera_can_be_stopped(packets):
    stop = threading.Event()
    with Camera(packets, [(len(packets), "silent"), WHOLE]) as camera:
        threading.Thread(target=lambda: camera.silent.wait(60) and stop.set(), daemon=True).start()
        seen = watch(camera, stop=stop)
        assert camera.visits == [WHOLE]  # it was not sought again
    assert len(seen) <= 2  # some pictures, and perhaps the silence


@pytest.mark.parametrize(
    ("system", "form", "file"),
    [("linux", "v4l2", "/dev/video3"), ("darwin", "avfoundation", "3")],
)
def test_a_camera_is_opened_by_its_number(monkeypatch, system, form, file):
    """The pictures are FFmpeg's test card, which is opened as any other device is."""
    if "lavfi" not in av.formats_available:
        pytest.skip("this PyAV has no lavfi")
    asked, open_really = [], av.open

    def open_card(address, **options):
        asked.append((address, options.pop("format")))
        assert options["timeout"] == HASTE.timeout
        return open_really("testsrc=size=64x48:rate=10:duration=1", format="lavfi", **options)

    monkeypatch.setattr(video.sys, "platform", system)
    monkeypatch.setattr(av, "open", open_card)
    stop, seen = threading.Event(), []
    for frame in read_video(Source("live", "3"), stop=stop, patience=HASTE):
        if frame.photo is None:
            stop.set()
        else:
            seen.append(frame)
    assert asked == [(file, form)]
    with open_really("testsrc=size=64x48:rate=10:duration=1", format="lavfi") as card:
        expected = [picture.to_ndarray(format="rgb24") for picture in card.decode(video=0)]
    assert [frame.index for frame in seen] == list(range(10))
    assert all(frame.live for frame in seen)
    np.testing.assert_array_equal([frame.photo for frame in seen], expected)


def test_this_pyav_reads_cameras():
    """A wheel without FFmpeg's devices would only say so when a camera is there."""
    names = {name for form in av.formats_available for name in form.split(",")}
    assert video.CAMERAS[video.sys.platform][0] in names
