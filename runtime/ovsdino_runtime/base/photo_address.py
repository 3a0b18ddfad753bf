"""Fetch photos from ``http://`` and ``https://`` addresses, with limits on size and time."""

import re
import time
from io import BytesIO
from pathlib import PurePosixPath

from ovsdino_runtime.base.errors import PhotoError, TooLargeError

MAX_BYTES = 200_000_000
MAX_SECONDS = 60.0  # for the whole file
SILENCE_S = 10.0  # without any data
PIECE = 1 << 16  # [bytes]


def is_address(text: str) -> bool:
    """Tell whether a text is an http or https address."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def address_path(address: str) -> PurePosixPath:
    """Return the path of an address; it ends with the file's name."""
    from urllib.parse import unquote, urlsplit

    return PurePosixPath(unquote(urlsplit(address).path))


def without_password(address: str) -> str:
    """Return an address without its password, for messages."""
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", address)


def fetch_photo(address: str) -> BytesIO:
    """Download a file.

    Raises:
        TooLargeError: the file has more than 200 megabytes.
        PhotoError: the host does not answer, has no such file, or takes more than a minute.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    shown = without_password(address)
    until = time.monotonic() + MAX_SECONDS
    data = bytearray()
    try:
        request = Request(address, headers={"User-Agent": "ovsdino"})
        with urlopen(request, timeout=SILENCE_S) as answer:
            while piece := answer.read(PIECE):
                data += piece
                if len(data) > MAX_BYTES:
                    raise TooLargeError(f"{shown}: more than {MAX_BYTES // 1_000_000} megabytes")
                if time.monotonic() > until:
                    raise PhotoError(f"{shown}: not there after {MAX_SECONDS:g} s; download it first")
            if (missing := answer.length) is not None and missing > 0:
                raise PhotoError(f"{shown}: {missing} bytes are missing; try again")
    except HTTPError as error:
        raise PhotoError(
            f"{shown}: the server answers {error.code} {error.reason}; check the address"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise PhotoError(f"{shown}: cannot be read: {' '.join(str(reason).split())}") from error
    return BytesIO(bytes(data))
