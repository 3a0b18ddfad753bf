"""Read videos, cameras and network streams, and write videos, with PyAV (extra ``video``)."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from ovsdino_runtime.base.errors import OutputError, PhotoError
from ovsdino_runtime.base.frames import Frame, Source
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.base.trace import NO_TRACE, Trace
from ovsdino_runtime.geometry.types import Photo

Container: TypeAlias = Any  # these two are PyAV's, which is imported when it is needed
Picture: TypeAlias = Any
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}  # format, and file
ENCODERS = {  # in the order of preference; without pictures that refer to later ones, times begin at 0
    "libx264": {"crf": "21", "preset": "veryfast", "bf": "0", "g": "50"},
    "mpeg4": {"b": "4000000", "g": "50"},
}
TICKS = 60_000  # [1/s] of a video's clock; MPEG-4 takes 65,535 at most
MAX_RATE = 1000.0  # [1/s]
MAX_ASPECT = 4  # width to height of a pixel, or height to width
USUAL_RATE = 25.0  # [1/s] where a source does not say


@dataclass(frozen=True)
class Patience:
    """When to reconnect to a lost live source: after ``first`` seconds, then twice as many, ..."""

    first: float = 0.5  # [s]
    max_count: float = 30.0  # [s]
    tries: int = 10  # in vain, one after the other
    timeout: float = 10.0  # [s] without any data
    steady: float = 10.0  # [s] after which a connection that held counts as good, and tries begin anew

    def pause(self, tries: int) -> float:
        """Return the time to wait before a try [s]; the first try is number 1."""
        return min(self.max_count, self.first * 2.0 ** (tries - 1))


PATIENCE = Patience()


def read_video(
    source: Source, *, stop: threading.Event, trace: Trace = NO_TRACE, patience: Patience = PATIENCE
) -> Iterator[Frame]:
    """Decode the pictures of a video, upright. A broken picture or a lost connection yields its error.

    Args:
        source: a video file or a live source.
        stop: ends the reading within the time that one picture takes, or the timeout of a silent source.
        trace: records each decoding.
        patience: how often a live source is opened again.

    Raises:
        PhotoError: PyAV is not installed.
    """
    av = import_av(source.name)
    index = tries = 0
    endless = source.kind == "live"
    started = time.monotonic()
    while not stop.is_set():
        opened, before, failed = time.monotonic(), index, False
        try:
            with _open(av, source, patience) as container:
                endless = endless and not _has_end(container)
                for frame in _decode(av, container, source=source, trace=trace):
                    if stop.is_set():
                        return
                    at = time.monotonic() - started if endless else frame.time
                    yield replace(frame, index=index, time=at, live=endless)
                    failed = failed or frame.photo is None
                    index += frame.photo is not None
            if not endless:
                if not index and not failed:
                    yield _unreadable(source, "no picture in it can be decoded")
                return
            reason = "the connection was closed"
        except PhotoError as error:
            yield Frame(source, None, error)
            return
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything
            reason = _reason(av, error, patience)
            if not endless or not index:
                yield _unreadable(source, reason)
                return
        held = index > before and time.monotonic() - opened > patience.steady
        tries = 1 if held else tries + 1
        yield _lost(source, reason, tries=tries, patience=patience)
        if tries > patience.tries:
            return
        stop.wait(patience.pause(tries))


def _has_end(container: Container) -> bool:
    """Tell whether an address is a file: it has a duration or a size, or is a single picture."""
    name = container.format.name
    return bool(container.duration) or container.size > 0 or name.endswith("_pipe") or name == "image2"


def _reason(av: ModuleType, error: Exception, patience: Patience) -> str:
    if isinstance(error, av.error.ExitError):
        return f"no data for {patience.timeout:g} s"
    if isinstance(error, IndexError):
        return "no pictures in it"
    return getattr(error, "strerror", "") or " ".join(str(error).split()) or type(error).__name__


def _unreadable(source: Source, reason: str) -> Frame:
    if source.kind == "live":
        cure = "check that it runs, and its address"
    elif Path(source.address).is_file() and not Path(source.address).stat().st_size:
        reason, cure = "the file is empty", "get it again"
    elif Path(source.address).is_file():
        cure = "get the file again, or convert it with ffmpeg"
    else:
        cure = "check the path"
    return Frame(source, None, PhotoError(f"{source.name}: cannot be read: {reason}; {cure}"))


def import_av(address: str) -> ModuleType:
    """Import PyAV.

    Raises:
        PhotoError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        import av
    except ImportError as error:
        raise PhotoError(
            f"{address}: videos, cameras and streams need PyAV ({error}); {install_command('video')}"
        ) from error
    return av


def _lost(source: Source, reason: str, *, tries: int, patience: Patience) -> Frame:
    if tries > patience.tries:
        what = f"{source.name}: {reason}; given up after {patience.tries} tries"
    else:
        what = f"{source.name}: {reason}; trying again in {patience.pause(tries):g} s"
    return Frame(source, None, PhotoError(what), live=True)


def _open(av: ModuleType, source: Source, patience: Patience) -> Container:
    address, form, options = source.address, None, {}
    if address.isdigit() and source.kind == "live":
        if sys.platform not in CAMERAS:
            raise PhotoError(f"{source.name}: cameras are read on Linux and macOS; give an address instead")
        form, file = CAMERAS[sys.platform]
        address = file.format(address)
    elif source.kind == "video":
        address = f"file:{regular_file(Path(address))}"  # a colon in its name is no protocol
    elif address.startswith("rtsp"):
        options = {"rtsp_transport": "tcp"}  # over UDP, lost packets are torn pictures
    return av.open(address, format=form, options=options, timeout=patience.timeout)


def _decode(av: ModuleType, container: Container, *, source: Source, trace: Trace) -> Iterator[Frame]:
    stream = _best_stream(av, container)
    if source.kind == "video":
        stream.thread_type = "AUTO"  # faster, and some pictures later
    rate = float(stream.average_rate or 0)
    rate = rate if rate <= MAX_RATE else 0.0  # a clock's ticks, not pictures
    began = (container.start_time or 0) / av.time_base
    count = 0
    start = time.perf_counter()
    for packet in container.demux(stream):
        try:
            pictures = packet.decode()
        except av.InvalidDataError as error:
            yield Frame(
                source, None, PhotoError(f"{source.name}: a broken picture: {error.strerror}; it is left out")
            )
            continue
        for picture in pictures:
            if picture.is_corrupt:
                what = f"{source.name}: picture {count} is broken and left out"
                yield Frame(source, None, PhotoError(what), time=_seconds(picture, count, rate))
                continue
            size = square_pixels(picture.width, picture.height, stream.sample_aspect_ratio)
            photo = _upright(picture, size)
            seconds = time.perf_counter() - start
            track = threading.current_thread().name
            trace.add("decode", track=track, start=start, seconds=seconds, picture=count)
            at = max(0.0, _seconds(picture, count, rate) - began)
            notes = () if count else _note_aspect(picture, size, stream.sample_aspect_ratio)
            yield Frame(source, photo, time=at, rate=rate, decode=1000 * seconds, notes=notes)
            count += 1
            start = time.perf_counter()


def _best_stream(av: ModuleType, container: Container) -> Any:  # noqa: ANN401 - PyAV's
    """Choose the video stream, not the cover picture.

    Raises:
        IndexError: there is no video stream.
    """
    cover = av.stream.Disposition.attached_pic
    films = [stream for stream in container.streams.video if not stream.disposition & cover]
    best = container.streams.best("video")
    return best if best in films else films[0]


def square_pixels(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Return the size with square pixels; the shorter side of each pixel is stretched.

    Args:
        width, height: size as stored [px].
        aspect: width to height of a pixel; None if unknown. Beyond 1:4 to 4:1 it is taken for an error.
    """
    if not aspect or not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _note_aspect(picture: Picture, size: tuple[int, int], aspect: Fraction | None) -> tuple[str, ...]:
    if not aspect or aspect == 1:
        return ()
    pixels = f"its pixels are {aspect.numerator}:{aspect.denominator}"
    if size == (picture.width, picture.height):
        return (f"{pixels}, which cannot be: taken as square",)
    return (f"{pixels}: {picture.width}x{picture.height} is scaled to {size[0]}x{size[1]}",)


def _upright(picture: Picture, size: tuple[int, int]) -> Photo:
    """Scale a picture to square pixels; rotate and mirror it as its display matrix demands.

    Args:
        picture: a decoded picture.
        size: width and height with square pixels, before the rotation [px].

    Source: ISO 14496-12, 8.3.2: (x, y) is shown at (a x + c y, b x + d y), y points down.
    """
    photo: Photo = picture.to_ndarray(format="rgb24", width=size[0], height=size[1])
    matrix = next((data for data in picture.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return photo
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        photo, a, d = photo.swapaxes(0, 1), c, b
    if a < 0:
        photo = photo[:, ::-1]
    if d < 0:
        photo = photo[::-1]
    return np.ascontiguousarray(photo)


def _seconds(picture: Picture, count: int, rate: float) -> float:
    return count / (rate or USUAL_RATE) if picture.pts is None else float(picture.time)


class VideoWriter:
    """Write a video of pictures at arbitrary times.

    After a crash it can be played up to its last seconds; `close` completes it.

    Args:
        path: the file, ``.mp4``.
        rate: approximate picture rate [1/s]; 0 if unknown.

    Raises:
        OutputError: PyAV is not installed, or the file cannot be written.
    """

    def __init__(self, path: Path, *, rate: float) -> None:
        try:
            self._av = import_av(str(path))
        except PhotoError as error:
            raise OutputError(str(error)) from error
        self._path = path
        self._last = -1
        with self._refusing():
            path.parent.mkdir(parents=True, exist_ok=True)
            options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
            self._container = self._av.open(f"file:{path}", "w", format="mp4", options=options)
        name = next(name for name in ENCODERS if name in self._av.codecs_available)
        self._stream = self._container.add_stream(
            name, rate=Fraction(rate or USUAL_RATE).limit_denominator(1001)
        )
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = ENCODERS[name]

    def write(self, picture: Photo, at: float) -> None:
        """Add a picture. It is scaled to the size of the first one.

        Args:
            picture: (H, W, 3) RGB, at least 2x2.
            at: time since the video began [s]; if not later than the last picture, moved right after it.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._last < 0:  # colours have half the resolution: both sides must be even
            self._stream.height, self._stream.width = (max(2, side // 2 * 2) for side in picture.shape[:2])
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(self._stream.width, self._stream.height, "yuv420p")
        self._last = max(self._last + 1, round(at * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        with self._refusing():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the remaining pictures and complete the file.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._refusing():
            if self._last >= 0:
                self._container.mux(self._stream.encode(None))
            self._container.close()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError) as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror or error}") from error
