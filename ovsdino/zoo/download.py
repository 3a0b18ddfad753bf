"""Download a file; resume an interrupted download."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

BLOCK = 1 << 20  # [bytes]
TIMEOUT = 30.0  # [s] without a byte
TRIES = 5  # in a row without a new byte
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)

Progress = Callable[[int, int | None], object]  # bytes that are there, and all of them where that is known


class CutError(OSError):
    """The download ended before the file was complete."""


def download(url: str, partial: Path, *, progress: Progress, pause: float = 1.0) -> None:
    """Download a file, or the rest of a partial download.

    An ``.etag`` file beside it records the version, so that parts of two versions are never mixed.

    Args:
        url: an http or https address; proxies are taken from the environment.
        partial: path of the partial file.
        progress: called with each block.
        pause: time between tries [s].

    Raises:
        OSError: there is no connection, no such file, or no space on the disk.
    """
    fruitless = 0
    while True:
        before = _size(partial)
        try:
            _fetch_rest(url, partial, progress)
            return
        except (*BROKEN, CutError) as error:
            final = (
                isinstance(error, urllib.error.HTTPError) and error.code < http.client.INTERNAL_SERVER_ERROR
            )
            fruitless = fruitless + 1 if _size(partial) <= before else 0
            if final or fruitless >= TRIES:
                raise
        time.sleep(pause)


def _fetch_rest(url: str, partial: Path, progress: Progress) -> None:
    """Request the missing part and append it; a server without ranges sends the whole file again."""
    tag = partial.with_name(f"{partial.name}.etag")
    start = _size(partial) if tag.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "ovsdino"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink()  # longer than the file is now
            raise CutError(f"{url}: changed while it was fetched") from error
        raise
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if mark:
            tag.write_text(mark, encoding="utf-8")
        else:
            tag.unlink(missing_ok=True)
        with partial.open("ab" if start else "wb") as file:
            _copy(response, file, done=start, total=total, progress=progress)
    if total is not None and _size(partial) != total:  # more of it where two fetched at once
        raise CutError(f"{url}: {_size(partial)} bytes came of {total}")
    tag.unlink(missing_ok=True)


def _copy(source: IO[bytes], file: IO[bytes], *, done: int, total: int | None, progress: Progress) -> None:
    while block := source.read(BLOCK):
        file.write(block)
        done += len(block)
        progress(done, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
