"""Find and read sources of pictures: photos, folders, patterns, lists, videos, cameras and streams."""

import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.frames import Frame, Source
from ovsdino_runtime.base.photo import decode_photo
from ovsdino_runtime.base.photo_address import address_path, is_address
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.base.suffixes import is_photo, is_result, is_system_file, is_video
from ovsdino_runtime.base.trace import NO_TRACE, Trace

LIST = ".txt"
RESULT_SUFFIXES = {".json", ".jsonl", ".geojson"}


def find_sources(arguments: Iterable[str | Path]) -> list[Source]:
    """Expand the arguments of a user into sources, in order and without duplicates.

    Args:
        arguments: files, folders (the photos and videos in them, sorted), patterns such as ``shots/*.png``,
            ``.txt`` lists with one of these a line, a camera's number, or an address such as ``rtsp://...``.

    Raises:
        PhotoError: a folder, pattern or list contains no pictures, a list cannot be read, or none of the
            files exists.
    """
    sources = list(dict.fromkeys(source for argument in arguments for source in _expand(str(argument))))
    if sources and not any(
        source.kind == "live" or is_address(source.address) or Path(source.address).is_file()
        for source in sources
    ):
        raise PhotoError(f"{sources[0].address}: no such file")
    return sources


def read_frames(
    sources: Sequence[Source] | Iterable[str | Path],
    *,
    options: PhotoOptions = DEFAULT_PHOTO_OPTIONS,
    stop: threading.Event | None = None,
    trace: Trace = NO_TRACE,
) -> Iterator[Frame]:
    """Decode the pictures of all sources, one source after another; a broken picture yields its error.

    Args:
        sources: as `find_sources` gives them, or takes them.
        options: what the files of photos do not say about their pixels.
        stop: ends the reading, also of a source that has no end.
        trace: records each decoding.
    """
    stop = stop or threading.Event()
    for source in [
        source for item in sources for source in ([item] if isinstance(item, Source) else _expand(str(item)))
    ]:
        if stop.is_set():
            return
        if source.kind == "photo":
            yield _read_photo(source, options, trace)
        else:
            from ovsdino_runtime.files.video import read_video

            yield from read_video(source, stop=stop, trace=trace)


def _expand(argument: str, *, inside: str = "") -> Iterator[Source]:
    path = Path(argument)
    if is_address(argument) and is_photo(Path(address_path(argument))):
        yield Source("photo", argument)
    elif re.match(r"[a-z][a-z0-9+.-]+://", argument) or (argument.isdigit() and not path.exists()):
        yield Source("live", argument)
    elif path.is_dir():
        yield from _some((str(file) for file in sorted(path.iterdir())), f"{argument}: no photos in it")
    elif not path.exists() and set(argument) & set("*?["):
        yield from _some(_fitting(path), f"{argument}: no photos fit this pattern")
    elif path.suffix.lower() == LIST:
        if inside:
            raise PhotoError(f"{inside}: holds another list, {argument}; name both lists")
        for line in _read_list(path):
            yield from _expand(line, inside=argument)
    else:
        yield Source("video" if is_video(path) else "photo", argument)


def _fitting(pattern: Path) -> list[str]:
    """Find the files that match a pattern. Existing folders with a name such as ``[1]`` are not patterns."""
    root = Path(pattern.anchor or ".")
    parts = list(pattern.relative_to(root).parts)
    while len(parts) > 1 and (root / parts[0]).is_dir():
        root /= parts.pop(0)
    return sorted(map(str, root.glob(str(Path(*parts)))))


def find_skipped(arguments: Iterable[str | Path]) -> list[Path]:
    """List the files in the given folders that are neither photos nor videos, sorted by folder.

    Hidden files, files of the operating system, and our own results are left out.
    """
    folders = dict.fromkeys(Path(argument) for argument in arguments)
    return [
        file
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.is_file() and not _is_expected(file)
    ]


def _is_expected(file: Path) -> bool:
    hidden = file.name.startswith(".") or is_system_file(file)
    return hidden or is_photo(file) or is_video(file) or file.suffix.lower() in RESULT_SUFFIXES


def _some(files: Iterable[str], message: str) -> Iterator[Source]:
    """Keep the pictures; refuse to find none."""
    any_found = False
    for file in files:
        path = Path(file)
        if (is_photo(path) or is_video(path)) and path.is_file() and not is_result(path):
            any_found = True
            yield Source("video" if is_video(path) else "photo", file)
    if not any_found:
        raise PhotoError(message)


def _read_list(path: Path) -> list[str]:
    try:
        text = regular_file(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise PhotoError(f"{path}: cannot be read: {reason}") from error
    lines = [line.strip() for line in text.splitlines()]
    if named := [line for line in lines if line and not line.startswith("#")]:
        return named
    raise PhotoError(f"{path}: names no photos; write one a line")


def _read_photo(source: Source, options: PhotoOptions, trace: Trace) -> Frame:
    start = time.perf_counter()
    try:
        with trace.span("decode", photo=source.address):
            decoded = decode_photo(source.address, options=options)
    except PhotoError as error:
        return Frame(source, None, error)
    milliseconds = 1000 * (time.perf_counter() - start)
    return Frame(source, decoded.photo, decode=milliseconds, notes=decoded.notes, valid=decoded.valid)
